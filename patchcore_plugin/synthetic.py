"""A drawn line of machined flanges, good and defective with exact masks: a data set that needs no download.

The part is drawn once, at twice the size; each photo moves it, turns it, lights it and adds sensor noise.
Lengths are in radii of the part, which lies in the middle of its drawing and has a radius of `_RADIUS` sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from patchcore_plugin.errors import DatasetError
from patchcore_plugin.images import write_png

__all__ = ["CATEGORY", "DEFECTS", "draw_dataset"]

CATEGORY = "synthetic-parts"
"""Name of the folder that `draw_dataset` makes."""

Array: TypeAlias = npt.NDArray[Any]

_RADIUS = 0.385
_BORE, _BOLT_CIRCLE, _BOLT, _SINK = 0.23, 0.755, 0.082, 0.122
_BOLTS = [(_BOLT_CIRCLE * np.cos(a), _BOLT_CIRCLE * np.sin(a)) for a in np.deg2rad(np.arange(30, 390, 60))]
_LIGHT = np.deg2rad(-128)
_LABEL = (-0.4, 0.335, 0.4, 0.565)
_INK, _YELLOW = np.array([0.07, 0.08, 0.11]), np.array([0.97, 0.74, 0.16])
_LIQUIDS = np.array([[0.22, 0.15, 0.08], [0.13, 0.15, 0.11], [0.26, 0.14, 0.07]])


@dataclass
class _Part:
    """A drawn part: colours [S, S, 3] and cover [S, S] in 0..1, and defect [S, S] in 0..1."""

    colors: Array
    cover: Array
    defect: Array


def draw_dataset(
    folder: str | Path, *, seed: int = 0, train: int = 30, size: int = 256, good: int = 8, defective: int = 4
) -> Path:
    """Draw photos of a line of parts, in the MVTec AD layout.

    The photos differ as those of a real line do: position, rotation, brightness, light, belt and sensor noise.
    The same arguments draw the same pixels, given the same versions of OpenCV and NumPy.

    Parameters
    ----------
    folder : str or Path
        Where to; `CATEGORY` is made in it, with the folders above it. Photos of an earlier call are replaced.
    seed : int
        Decides everything that varies.
    train : int
        Number of good photos to fit on, at least 1.
    size : int
        Height and width of a photo in pixels, at least 64.
    good : int
        Number of good photos to test with, at least 1.
    defective : int
        Number of photos of each of the kinds in `DEFECTS`, each with its mask; at least 1.

    Returns
    -------
    Path
        The folder of the category. Photos are uint8 RGB and masks uint8 grey (0 and 255), all [size, size].

    Raises
    ------
    DatasetError
        A number is too small, or the folder holds photos that this call would not replace.
    ImageError
        A file cannot be written.
    """
    if size < 64 or min(train, good, defective) < 1:
        raise DatasetError(
            f"cannot draw {train} + {good} good and {defective} defective photos of {size} pixels; "
            "use at least 1 of each and 64 pixels"
        )
    root = Path(folder) / CATEGORY
    plan = [(root / "train" / "good" / f"{i:03}.png", "good", i) for i in range(train)]
    plan += [(root / "test" / "good" / f"{i:03}.png", "good", i) for i in range(good)]
    plan += [(root / "test" / kind / f"{i:03}.png", kind, i) for kind in DEFECTS for i in range(defective)]
    masks = {
        photo: root / "ground_truth" / kind / f"{photo.stem}_mask.png" for photo, kind, _ in plan if kind != "good"
    }
    foreign = set(root.rglob("*.png")) - {photo for photo, _, _ in plan} - set(masks.values())
    if foreign:
        raise DatasetError(f"{root}: holds other photos, such as {min(foreign)}; choose an empty folder")
    rng = np.random.default_rng(seed)
    line = _Line(size)
    for photo, kind, index in plan:
        image, mask = line.photo(rng, kind, index)
        photo.parent.mkdir(parents=True, exist_ok=True)
        write_png(photo, image)
        if kind != "good":
            masks[photo].parent.mkdir(parents=True, exist_ok=True)
            write_png(masks[photo], mask)
    return root


class _Line:
    """What all photos of one line share: the drawing of the part, the belt, the lamp."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.side = 2 * size
        axis = (np.arange(self.side, dtype=np.float32) + 0.5 - size) / (_RADIUS * self.side)
        self.x, self.y = np.meshgrid(axis, axis)
        self.r, self.angle = np.hypot(self.x, self.y), np.arctan2(self.y, self.x)
        # The product looks the same for every seed: a seed changes the photos.
        fixed = np.random.default_rng(2106)
        self.belt = self._draw_belt(fixed)
        self.steel = self._draw_steel(fixed)
        code = fixed.random((9, 9)) < 0.5
        code[0], code[:, 0] = True, True
        self.code = self._draw_code(code)
        self.text = self.ink("PC-2106")
        self.sound = self._finish(self._drill(range(len(_BOLTS))), self.text)
        self.bare = (self.r > 0.3) & (self.r < 0.92) & (self._rectangle(_LABEL, 0.035) == 0)
        self.solid = 1 - self._disc(0, 0, _BORE)
        for x, y in _BOLTS:
            self.bare &= self._disc(x, y, _SINK) == 0
            self.solid -= self._disc(x, y, _BOLT)
        corner = (self.x**2 + self.y**2) * 2 * _RADIUS**2
        self.vignette: Array = _shrunk(1 - 0.1 * corner)[..., None]

    def photo(
        self, rng: np.random.Generator, kind: str, index: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Return one photo [size, size, 3] and its mask [size, size] (0 and 255)."""
        # Apart, so that a defect changes neither the pose nor the light nor the noise of its photo.
        maker, rng = rng.spawn(2)
        part = self.part(maker, kind, index)
        angle, (dx, dy) = rng.uniform(-4, 4), rng.uniform(-0.022, 0.022, 2) * self.side
        turn = cv2.getRotationMatrix2D((self.size - 0.5, self.size - 0.5), angle, rng.uniform(0.99, 1.01))
        turn[:, 2] += dx, dy
        cover, colors, defect = (
            cv2.warpAffine(layer, turn, (self.side, self.side), flags=cv2.INTER_LINEAR)
            for layer in (part.cover, part.colors, part.defect)
        )
        start = rng.integers(0, self.side, 2)
        scene = np.roll(self.belt, tuple(start), axis=(0, 1)) * rng.uniform(0.93, 1.07)
        away = np.array([[1, 0, 0.016 * self.side], [0, 1, 0.022 * self.side]])
        shadow = cv2.GaussianBlur(cv2.warpAffine(cover, away, (self.side, self.side)), (0, 0), 0.014 * self.side)
        scene *= (1 - 0.62 * shadow)[..., None]
        scene += cover[..., None] * (colors - scene)
        image = _shrunk(scene) * self.vignette
        across, down = rng.uniform(-0.035, 0.035, 2)
        ramp = np.linspace(-1, 1, self.size, dtype=np.float32)
        image *= (rng.uniform(0.93, 1.07) * (1 + across * ramp[None, :] + down * ramp[:, None]))[..., None]
        image *= rng.normal(1, 0.006, 3).astype(np.float32)
        noise = rng.standard_normal(image.shape, np.float32)
        image += noise * (0.005 + 0.012 * np.sqrt(np.clip(image, 0, 1)))
        pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        return pixels, np.where(_shrunk(defect) >= 0.5, 255, 0).astype(np.uint8)

    def part(self, rng: np.random.Generator, kind: str, index: int) -> _Part:
        """Return one part with a defect of a kind; `index` makes the defects of a kind differ."""
        marks = cv2.GaussianBlur(rng.standard_normal((1024, 1)), (1, 0), sigmaX=1, sigmaY=5)[:, 0]
        colors, defect = self.sound, np.zeros_like(self.r)
        if kind == "missing_hole":
            missing = int(rng.integers(len(_BOLTS)))
            colors = self._finish(self._drill(i for i in range(len(_BOLTS)) if i != missing), self.text)
            defect = self._disc(*_BOLTS[missing], _SINK)
        elif kind == "misprint":
            printed = _misprinted(self, rng, index % 4)
            colors = self._finish(self._drill(range(len(_BOLTS))), printed)
            changed = (np.abs(printed - self.text) > 0.25).astype(np.float32)
            reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (int(self.pixels(0.07)) | 1,) * 2)
            defect = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, reach).astype(np.float32)
        own = 0.035 * marks[np.clip(self.r * 800, 0, 1023).astype(np.int32)] * self.bare
        part = _Part(colors + own.astype(np.float32)[..., None], self._disc(0, 0, 1), defect)
        if kind in _PAINTERS:
            _PAINTERS[kind](self, part, rng)
        return part

    def _disc(self, x: float, y: float, radius: float) -> Array:
        """Return the antialiased cover of a disc."""
        distance = (radius - np.hypot(self.x - np.float32(x), self.y - np.float32(y))) * self.pixels(1)
        return _single(np.clip(distance + 0.5, 0, 1))

    def pixels(self, length: float) -> float:
        """Return a length in pixels of the drawing."""
        return length * _RADIUS * self.side

    def points(self, points: Array) -> npt.NDArray[np.int32]:
        """Return points [N, 2] in radii as OpenCV wants them with `shift=4`."""
        fixed: npt.NDArray[np.int32] = np.rint((points * self.pixels(1) + self.size - 0.5) * 16).astype(np.int32)
        return fixed

    def _draw_belt(self, rng: np.random.Generator) -> Array:
        """Return a woven belt [S, S, 3] that wraps around."""
        rows, columns = np.mgrid[: self.side, : self.side] * (2 * np.pi / self.side)
        weave = np.sin(64 * rows + 2 * np.sin(64 * columns)) * np.sin(64 * columns - 64 * rows)
        noise = np.pad(rng.standard_normal((self.side, self.side)), 8, mode="wrap")
        fibre = cv2.GaussianBlur(noise, (0, 0), 1.2)[8:-8, 8:-8]
        level = 0.185 + 0.022 * weave + 0.035 * fibre
        return _single(level[..., None] * np.array([0.80, 0.98, 1.14]))

    def _draw_steel(self, rng: np.random.Generator) -> Array:
        """Return the turned face with its edges and bore [S, S, 3], without holes and print."""
        rings = cv2.GaussianBlur(rng.standard_normal((4096, 1)), (1, 0), sigmaX=1, sigmaY=6)[:, 0]
        groove = rings[np.clip(self.r * 3000, 0, 4095).astype(np.int32)] / rings.std()
        lobes = np.abs(np.cos(self.angle - _LIGHT)) ** 5
        face = 0.52 + 0.25 * lobes + 0.018 * groove * (0.5 + lobes)
        toward = np.cos(self.angle - _LIGHT)
        face = np.where(self.r > 0.94, 0.56 + 0.36 * toward, face)
        face -= 0.22 * np.exp(-(((self.r - 0.935) / 0.006) ** 2))
        face = np.where((self.r < 0.29) & (self.r > _BORE), 0.50 - 0.30 * toward, face)
        face += 0.10 * np.exp(-(((self.r - 0.295) / 0.007) ** 2))
        depth = np.clip((_BORE - self.r) / 0.07, 0, 1)
        wall = 0.22 - 0.12 * toward
        face = np.where(self.r < _BORE, wall + (0.055 - wall) * depth, face)
        return _single(face[..., None] * np.array([0.97, 1.0, 1.035]))

    def _draw_code(self, code: npt.NDArray[np.bool_]) -> Array:
        """Return the cover of a printed square code."""
        left, top, cell = -0.135, -0.60, 0.03
        cover = np.zeros_like(self.r)
        for row, column in zip(*np.nonzero(code), strict=True):
            x, y = left + column * cell, top + row * cell
            cover = np.maximum(cover, self._rectangle((x, y, x + cell, y + cell), 0))
        return _single(cover)

    def _drill(self, bolts: Iterable[int]) -> Array:
        """Return the steel [S, S, 3] with countersunk holes of the given numbers."""
        colors = self.steel.copy()
        for x, y in (_BOLTS[bolt] for bolt in bolts):
            toward = np.cos(np.arctan2(self.y - y, self.x - x) - _LIGHT)
            _blend(colors, self._disc(x, y, _SINK), (0.46 - 0.26 * toward)[..., None])
            depth = np.hypot(self.x - x + 0.02, self.y - y + 0.02) / _BOLT
            _blend(colors, self._disc(x, y, _BOLT), (0.05 + 0.10 * np.clip(depth - 0.7, 0, 1))[..., None])
        return colors

    def _finish(self, colors: Array, text: Array) -> Array:
        """Put the label with a text and the code on a part [S, S, 3], in place."""
        _blend(colors, self._rectangle(_LABEL, 0.035), _YELLOW)
        return _blend(colors, 0.93 * np.maximum(text, self.code), _INK)

    def _rectangle(self, corners: tuple[float, float, float, float], round_by: float) -> Array:
        left, top, right, bottom = corners
        x = np.abs(self.x - (left + right) / 2) - (right - left) / 2 + round_by
        y = np.abs(self.y - (top + bottom) / 2) - (bottom - top) / 2 + round_by
        outside = np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0) - round_by
        return _single(np.clip(0.5 - outside * self.pixels(1), 0, 1))

    def ink(self, text: str) -> Array:
        """Return the cover of a text that fills the label."""
        left, top, right, bottom = _LABEL
        font, thick = cv2.FONT_HERSHEY_DUPLEX, max(1, round(self.side / 200))
        (width, height), _ = cv2.getTextSize(text, font, 1, 1)
        scale = min(self.pixels(right - left) * 0.86 / width, self.pixels(bottom - top) * 0.62 / height)
        x = self.size - width * scale / 2
        y = self.size + self.pixels((top + bottom) / 2) + height * scale / 2
        canvas = np.zeros((self.side, self.side), np.uint8)
        cv2.putText(canvas, text, (round(x), round(y)), font, scale, 255, thick, cv2.LINE_AA)
        return canvas.astype(np.float32) / 255


def _misprinted(line: _Line, rng: np.random.Generator, way: int) -> Array:
    """Return the cover of a text that went wrong."""
    ink = line.text
    if way == 0:
        # Printed twice, with the label having moved in between.
        move = np.array([[1, 0, line.pixels(0.05)], [0, 1, line.pixels(-0.045)]])
        ink = np.maximum(ink, 0.85 * cv2.warpAffine(ink, move, ink.shape[::-1]))
    elif way == 1:
        ink = ink * (line.x < rng.uniform(-0.12, 0.08))
    elif way == 2:
        # Wiped while wet.
        wiped = 1.9 * cv2.blur(ink, (int(line.pixels(0.17)), 1), anchor=(0, 0))
        ink = np.where(line.x > rng.uniform(-0.1, 0.05), np.minimum(wiped, 1), ink)
    else:
        # The label went in the wrong way round.
        middle = (_LABEL[1] + _LABEL[3]) / 2
        move = np.array([[-1, 0, line.side - 1], [0, -1, line.side - 1 + 2 * line.pixels(middle)]])
        ink = cv2.warpAffine(ink, move, ink.shape[::-1])
    return _single(ink)


def _blend(colors: Array, cover: Array, over: Array) -> Array:
    """Lay a colour over colours [S, S, 3] where it covers [S, S], in place."""
    colors += (cover[..., None] * (over - colors)).astype(np.float32)
    return colors


def _shrunk(layer: Array) -> Array:
    """Return a layer at half its size, each pixel being the mean of four."""
    return _single(cv2.resize(layer, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def _single(layer: Array) -> Array:
    single: npt.NDArray[np.float32] = layer.astype(np.float32, copy=False)
    return single


def _scratch(line: _Line, part: _Part, rng: np.random.Generator) -> None:
    heading, way = rng.uniform(0, 2 * np.pi), rng.uniform(0.55, 0.95)
    start = rng.uniform(0.42, 0.6) * np.array([np.cos(heading), np.sin(heading)])
    across = heading + np.pi / 2 + rng.uniform(-0.5, 0.5)
    t = np.linspace(-0.5, 0.5, 24)[:, None]
    bend = rng.uniform(-0.5, 0.5)
    along, aside = np.array([np.cos(across), np.sin(across)]), np.array([-np.sin(across), np.cos(across)])
    points = start + way * t * along + bend * (t**2 - 0.08) * aside
    points *= np.minimum(1, 0.9 / np.linalg.norm(points, axis=1, keepdims=True))
    # Pressed harder here than there, and least at its ends.
    knots = rng.uniform(0.65, 1, 9)
    force = np.interp(np.linspace(0, 8, 23), np.arange(9), knots) * np.sin(np.linspace(0.35, np.pi - 0.35, 23))
    width = line.side / 512 * rng.uniform(3.0, 4.2)
    for shift, level, thick in ((0.009, 0.12, width), (0.0, 0.95, width * 0.75)):
        stroke = np.zeros((line.side, line.side), np.uint8)
        path = line.points(points + shift)
        for first, last, strength in zip(path[:-1], path[1:], np.rint(255 * force), strict=True):
            ends = (first.tolist(), last.tolist())
            cv2.line(stroke, *ends, float(strength), max(1, round(thick)), cv2.LINE_AA, shift=4)
        cover = stroke.astype(np.float32) / 255 * line.solid
        _blend(part.colors, cover, np.array(level))
        part.defect = np.maximum(part.defect, np.minimum(3 * cover, 1))


def _stain(line: _Line, part: _Part, rng: np.random.Generator) -> None:
    heading, away, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.42, 0.66), rng.uniform(0.13, 0.19)
    centre = away * np.array([np.cos(heading), np.sin(heading)])
    color = _LIQUIDS[rng.integers(3)]
    cover = np.zeros_like(line.r)
    for size in (radius, *rng.uniform(0.02, 0.045, 4)):
        # The first is the pool, the others are drops around it.
        spread = 0 if size == radius else rng.uniform(1.2, 1.6) * radius
        way = rng.uniform(0, 2 * np.pi)
        x, y = centre + spread * np.array([np.cos(way), np.sin(way)])
        angle = np.arctan2(line.y - y, line.x - x)
        edge = np.full_like(line.r, size)
        for n in (2, 3, 5):
            edge += size * 0.3 / n * rng.uniform(0.4, 1) * np.cos(n * angle + rng.uniform(0, 2 * np.pi))
        inside = edge - np.hypot(line.x - x, line.y - y)
        cover = np.maximum(cover, np.clip(inside / 0.022 + 0.5, 0, 1))
    cover = (cover * line.solid * part.cover).astype(np.float32)
    # Liquid dries darkest at its rim.
    rim = cover - cv2.erode(cv2.GaussianBlur(cover, (0, 0), line.pixels(0.012)), np.ones((3, 3)))
    _blend(part.colors, np.clip(rng.uniform(0.6, 0.72) * cover + 0.5 * rim, 0, 0.9), color)
    part.defect = np.maximum(part.defect, cover)


def _chip(line: _Line, part: _Part, rng: np.random.Generator) -> None:
    heading, wide, deep = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.3), rng.uniform(0.14, 0.2)
    turned = (line.angle - heading + np.pi) % (2 * np.pi) - np.pi
    knots = np.linspace(-1, 1, 9)
    jags = np.sqrt(1 - knots**2) * rng.uniform(0.75, 1.05, 9)
    depth = deep * np.interp(turned / wide, knots, jags, left=0, right=0)
    broken, gone = (
        np.clip((line.r - 1 + share * depth) * line.pixels(1) + 0.5, 0, 1) * (depth > 0) for share in (1, 0.66)
    )
    grain = cv2.GaussianBlur(rng.standard_normal(line.r.shape), (0, 0), line.side / 250)
    fracture = 0.6 - 0.22 * np.cos(heading - _LIGHT) + 0.55 * grain
    _blend(part.colors, broken, fracture[..., None])
    part.defect = np.maximum(part.defect, (broken * part.cover).astype(np.float32))
    part.cover *= (1 - gone).astype(np.float32)


_PAINTERS: dict[str, Callable[[_Line, _Part, np.random.Generator], None]] = {
    "scratch": _scratch,
    "stain": _stain,
    "chip": _chip,
}

DEFECTS = ("chip", "misprint", "missing_hole", "scratch", "stain")
"""Kinds of defects, which are the names of their folders."""
