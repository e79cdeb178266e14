"""The product: a machined flange with holes, a label and a printed code, without defects.

A drawing has twice the size of an image. The part is centred and has a radius of `RADIUS` times the side; lengths are
in radii of the part. Layers are float32, [S, S] or [S, S, 3], in 0..1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

RADIUS = 0.385
_BORE, _BOLT_CIRCLE, _BOLT, SINK = 0.23, 0.755, 0.082, 0.122
BOLTS = [(_BOLT_CIRCLE * np.cos(a), _BOLT_CIRCLE * np.sin(a)) for a in np.deg2rad(np.arange(30, 390, 60))]
LIGHT = np.deg2rad(-128)
LABEL = (-0.4, 0.335, 0.4, 0.565)
_INK, _YELLOW = np.array([0.07, 0.08, 0.11]), np.array([0.97, 0.74, 0.16])


@dataclass
class Part:
    """A drawn part: colours [S, S, 3], and in 0..1 its cover [S, S] and its defect [S, S]."""

    colors: Array
    cover: Array
    defect: Array


class Flange:
    """Draws good parts on a grid of part coordinates.

    Parameters
    ----------
    size : int
        Height and width of the images, in pixels.
    rng : numpy.random.Generator
        Source of the grooves of the turned face, and of the code.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size = size
        self.side = 2 * size
        axis = (np.arange(self.side, dtype=np.float32) + 0.5 - size) / (RADIUS * self.side)
        self.x, self.y = np.meshgrid(axis, axis)
        self.r, self.angle = np.hypot(self.x, self.y), np.arctan2(self.y, self.x)
        self._steel = self._draw_steel(rng)
        code = rng.random((9, 9)) < 0.5
        code[0], code[:, 0] = True, True
        self._code = self._draw_code(code)
        self.text = self._draw_text("PC-2106")
        self.good = self.draw(range(len(BOLTS)), self.text)
        self.bare = (self.r > 0.3) & (self.r < 0.92) & (self.rectangle(LABEL, 0.035) == 0)
        self.solid = 1 - self.disc(0, 0, _BORE)
        for x, y in BOLTS:
            self.bare &= self.disc(x, y, SINK) == 0
            self.solid -= self.disc(x, y, _BOLT)

    def draw(self, bolts: Iterable[int], text: Array) -> Array:
        """Return the colours of a part [S, S, 3] with the holes in `bolts` and a label with `text` [S, S].

        Parameters
        ----------
        bolts
            Numbers of the holes that are drilled.
        text
            Cover of the text on the label, 0..1, [S, S].
        """
        colors = self._drill(bolts)
        blend(colors, self.rectangle(LABEL, 0.035), _YELLOW)
        return blend(colors, 0.93 * np.maximum(text, self._code), _INK)

    def disc(self, x: float, y: float, radius: float) -> Array:
        """Return the antialiased cover [S, S] of a disc.

        Parameters
        ----------
        x, y
            The centre, in units of the part's radius.
        radius
            The radius, in the same units.
        """
        distance = (radius - np.hypot(self.x - np.float32(x), self.y - np.float32(y))) * self.pixels(1)
        return to_float32(np.clip(distance + 0.5, 0, 1))

    def rectangle(self, corners: tuple[float, float, float, float], round_by: float) -> Array:
        """Return the antialiased cover [S, S] of a rectangle with rounded corners.

        Parameters
        ----------
        corners
            Left, top, right and bottom, in units of the part's radius.
        round_by
            Radius of the corners, in the same units.
        """
        left, top, right, bottom = corners
        x = np.abs(self.x - (left + right) / 2) - (right - left) / 2 + round_by
        y = np.abs(self.y - (top + bottom) / 2) - (bottom - top) / 2 + round_by
        outside = np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0) - round_by
        return to_float32(np.clip(0.5 - outside * self.pixels(1), 0, 1))

    def pixels(self, length: float) -> float:
        """Convert a length to pixels of the drawing."""
        return length * RADIUS * self.side

    def to_fixed_point(self, points: Array) -> npt.NDArray[np.int32]:
        """Convert points [N, 2] to fixed-point pixels for the drawing functions of OpenCV with `shift=4`."""
        fixed: npt.NDArray[np.int32] = np.rint((points * self.pixels(1) + self.size - 0.5) * 16).astype(np.int32)
        return fixed

    def _draw_text(self, text: str) -> Array:
        """Return the cover [S, S] of a text that fills the label."""
        left, top, right, bottom = LABEL
        font, thick = cv2.FONT_HERSHEY_DUPLEX, max(1, round(self.side / 200))
        (width, height), _ = cv2.getTextSize(text, font, 1, 1)
        scale = min(self.pixels(right - left) * 0.86 / width, self.pixels(bottom - top) * 0.62 / height)
        x = self.size - width * scale / 2
        y = self.size + self.pixels((top + bottom) / 2) + height * scale / 2
        canvas = np.zeros((self.side, self.side), np.uint8)
        cv2.putText(canvas, text, (round(x), round(y)), font, scale, 255, thick, cv2.LINE_AA)
        return canvas.astype(np.float32) / 255

    def _draw_steel(self, rng: np.random.Generator) -> Array:
        """Return the turned face with edges and bore [S, S, 3], without holes and print."""
        rings = cv2.GaussianBlur(rng.standard_normal((4096, 1)), (1, 0), sigmaX=1, sigmaY=6)[:, 0]
        groove = rings[np.clip(self.r * 3000, 0, 4095).astype(np.int32)] / rings.std()
        lobes = np.abs(np.cos(self.angle - LIGHT)) ** 5
        face = 0.52 + 0.25 * lobes + 0.018 * groove * (0.5 + lobes)
        toward = np.cos(self.angle - LIGHT)
        face = np.where(self.r > 0.94, 0.56 + 0.36 * toward, face)
        face -= 0.22 * np.exp(-(((self.r - 0.935) / 0.006) ** 2))
        face = np.where((self.r < 0.29) & (self.r > _BORE), 0.50 - 0.30 * toward, face)
        face += 0.10 * np.exp(-(((self.r - 0.295) / 0.007) ** 2))
        depth = np.clip((_BORE - self.r) / 0.07, 0, 1)
        wall = 0.22 - 0.12 * toward
        face = np.where(self.r < _BORE, wall + (0.055 - wall) * depth, face)
        return to_float32(face[..., None] * np.array([0.97, 1.0, 1.035]))

    def _draw_code(self, code: npt.NDArray[np.bool_]) -> Array:
        """Return the cover [S, S] of a printed square code."""
        left, top, cell = -0.135, -0.60, 0.03
        cover = np.zeros_like(self.r)
        for row, column in zip(*np.nonzero(code), strict=True):
            x, y = left + column * cell, top + row * cell
            cover = np.maximum(cover, self.rectangle((x, y, x + cell, y + cell), 0))
        return to_float32(cover)

    def _drill(self, bolts: Iterable[int]) -> Array:
        """Return the steel [S, S, 3] with the countersunk holes in `bolts`."""
        colors = self._steel.copy()
        for x, y in (BOLTS[bolt] for bolt in bolts):
            toward = np.cos(np.arctan2(self.y - y, self.x - x) - LIGHT)
            blend(colors, self.disc(x, y, SINK), (0.46 - 0.26 * toward)[..., None])
            depth = np.hypot(self.x - x + 0.02, self.y - y + 0.02) / _BOLT
            blend(colors, self.disc(x, y, _BOLT), (0.05 + 0.10 * np.clip(depth - 0.7, 0, 1))[..., None])
        return colors


def blend(colors: Array, cover: Array, color: Array) -> Array:
    """Blend a colour into an image, in place.

    Parameters
    ----------
    colors
        The image, float32 [S, S, 3]; modified.
    cover
        Share of the new colour at each pixel, 0..1, [S, S].
    color
        The new colour, [3], or a colour for each pixel, [S, S, 3].

    Returns
    -------
    Array
        `colors`.
    """
    colors += (cover[..., None] * (color - colors)).astype(np.float32)
    return colors


def to_float32(layer: Array) -> Array:
    """Convert a layer to float32."""
    converted: npt.NDArray[np.float32] = layer.astype(np.float32, copy=False)
    return converted
