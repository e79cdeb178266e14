"""Images of a part with varying position, rotation, light and sensor noise."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from patchcore_plugin.data.encoding import downscale

from .defects import draw_part
from .part import RADIUS, Array, Flange, to_float32


class Camera:
    """A camera over a conveyor belt; all its images show the same product, belt and lamp.

    Parameters
    ----------
    size : int
        Height and width of an image, in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.side = 2 * size
        # The seed of a data set varies the images, not the product.
        fixed = np.random.default_rng(2106)
        self._belt = self._draw_belt(fixed)
        self._flange = Flange(size, fixed)
        corner = (self._flange.x**2 + self._flange.y**2) * 2 * RADIUS**2
        self._vignette: Array = downscale(1 - 0.1 * corner, size)[..., None]

    def take_image(
        self, rng: np.random.Generator, kind: str, index: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Return an image of a new part and the mask of its defect.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of all variation; each call spawns from it.
        kind : str
            "good" or one of `DEFECTS`.
        index : int
            Selects the variant of a kind that has several.

        Returns
        -------
        image : ndarray of uint8, shape [size, size, 3]
            RGB.
        mask : ndarray of uint8, shape [size, size]
            255 where the part is defective, otherwise 0.
        """
        # Two generators, so that a defect changes neither the position nor the light nor the noise of its image.
        part_rng, rng = rng.spawn(2)
        part = draw_part(self._flange, part_rng, kind, index)
        angle, (dx, dy) = rng.uniform(-4, 4), rng.uniform(-0.022, 0.022, 2) * self.side
        turn = cv2.getRotationMatrix2D((self.size - 0.5, self.size - 0.5), angle, rng.uniform(0.99, 1.01))
        turn[:, 2] += dx, dy
        cover, colors, defect = (
            cv2.warpAffine(layer, turn, (self.side, self.side), flags=cv2.INTER_LINEAR)
            for layer in (part.cover, part.colors, part.defect)
        )
        start = rng.integers(0, self.side, 2)
        scene = np.roll(self._belt, tuple(start), axis=(0, 1)) * rng.uniform(0.93, 1.07)
        offset = np.array([[1, 0, 0.016 * self.side], [0, 1, 0.022 * self.side]])
        shadow = cv2.GaussianBlur(cv2.warpAffine(cover, offset, (self.side, self.side)), (0, 0), 0.014 * self.side)
        scene *= (1 - 0.62 * shadow)[..., None]
        scene += cover[..., None] * (colors - scene)
        image = downscale(scene, self.size) * self._vignette
        across, down = rng.uniform(-0.035, 0.035, 2)
        ramp = np.linspace(-1, 1, self.size, dtype=np.float32)
        image *= (rng.uniform(0.93, 1.07) * (1 + across * ramp[None, :] + down * ramp[:, None]))[..., None]
        image *= rng.normal(1, 0.006, 3).astype(np.float32)
        noise = rng.standard_normal(image.shape, np.float32)
        image += noise * (0.005 + 0.012 * np.sqrt(np.clip(image, 0, 1)))
        pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        return pixels, np.where(downscale(defect, self.size) >= 0.5, 255, 0).astype(np.uint8)

    def _draw_belt(self, rng: np.random.Generator) -> Array:
        """Return a woven belt [S, S, 3] that tiles seamlessly."""
        rows, columns = np.mgrid[: self.side, : self.side] * (2 * np.pi / self.side)
        weave = np.sin(64 * rows + 2 * np.sin(64 * columns)) * np.sin(64 * columns - 64 * rows)
        noise = np.pad(rng.standard_normal((self.side, self.side)), 8, mode="wrap")
        fibre = cv2.GaussianBlur(noise, (0, 0), 1.2)[8:-8, 8:-8]
        level = 0.185 + 0.022 * weave + 0.035 * fibre
        return to_float32(level[..., None] * np.array([0.80, 0.98, 1.14]))
