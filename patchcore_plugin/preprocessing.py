"""Photos to network inputs, and maps on the input back to maps on the photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .images import to_unit
from .recipe import Map, Preprocessing


@dataclass(frozen=True)
class Geometry:
    """Which part of a photo the network's input shows.

    Parameters
    ----------
    photo
        Height and width of the photo.
    resized
        Height and width that the whole photo is resized to.
    crop
        Top, left, height and width of the input within the resized photo.
    """

    photo: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int, int, int]

    def to_photo(self, row: float, column: float) -> tuple[float, float]:
        """Return the photo position (x, y), in pixels from its top left corner, of a position of the input."""
        top, left, _, _ = self.crop
        y = (top + row) * self.photo[0] / self.resized[0]
        x = (left + column) * self.photo[1] / self.resized[1]
        return x, y

    def box(self) -> tuple[int, int, int, int]:
        """Return the inspected part of the photo as top, left, bottom, right, in whole pixels."""
        _, _, height, width = self.crop
        left, top = self.to_photo(0, 0)
        right, bottom = self.to_photo(height, width)
        return round(top), round(left), round(bottom), round(right)


def geometry(options: Preprocessing, photo: tuple[int, int]) -> Geometry:
    """Return how a photo of that height and width is prepared."""
    height, width = options.size
    if options.keep_aspect:
        scale = max(height / photo[0], width / photo[1])
        height, width = max(height, round(photo[0] * scale)), max(width, round(photo[1] * scale))
    crop_height, crop_width = options.crop or (height, width)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return Geometry(photo=photo, resized=(height, width), crop=(top, left, crop_height, crop_width))


def prepare(photo: NDArray[Any], options: Preprocessing) -> Tensor:
    """Return the network's input, not yet normalised, of a photo.

    Parameters
    ----------
    photo
        RGB [H, W, 3]; uint8, uint16, or float32 in 0..1.

    Returns
    -------
    Tensor
        float32 [3, h, w] in 0..1: resized bilinearly with antialiasing, then cropped.
    """
    shape = geometry(options, (photo.shape[0], photo.shape[1]))
    pixels = torch.from_numpy(to_unit(photo)).permute(2, 0, 1)
    if pixels.shape[1:] != shape.resized:
        pixels = F.interpolate(pixels[None], size=shape.resized, mode="bilinear", antialias=True, align_corners=False)[
            0
        ]
    top, left, height, width = shape.crop
    return pixels[:, top : top + height, left : left + width].contiguous()


def anomaly_map(scores: NDArray[np.float32], shape: Geometry, options: Map) -> NDArray[np.float32]:
    """Return patch scores [h, w] as a map of the photo, float32 [H, W].

    Upsampled to the network's input, blurred there (sigma in its pixels; Gaussian up to four sigma,
    borders reflected), and resized to the inspected part of the photo. Outside that part it is 0.
    """
    return on_photo(upsampled(scores, shape, options), shape, options)


def upsampled(scores: NDArray[np.float32], shape: Geometry, options: Map) -> NDArray[np.float32]:
    """Return patch scores [h, w] at the size of the network's input; the first half of `anomaly_map`."""
    _, _, height, width = shape.crop
    interpolation = cv2.INTER_LINEAR if options.upsample == "bilinear" else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(scores, (width, height), interpolation=interpolation), dtype=np.float32)


def on_photo(full: NDArray[np.float32], shape: Geometry, options: Map) -> NDArray[np.float32]:
    """Return a map of the network's input, blurred, as a map of the photo; the second half of `anomaly_map`."""
    if options.sigma > 0:
        side = 2 * int(4 * options.sigma + 0.5) + 1
        full = np.asarray(
            cv2.GaussianBlur(full, (side, side), options.sigma, borderType=cv2.BORDER_REFLECT), dtype=np.float32
        )
    top, left, bottom, right = shape.box()
    inside = cv2.resize(full, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    if inside.shape == shape.photo:
        return np.asarray(inside, dtype=np.float32)
    whole = np.zeros(shape.photo, dtype=np.float32)
    whole[top:bottom, left:right] = inside
    return whole
