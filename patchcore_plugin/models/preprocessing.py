"""Images to network inputs, and patch scores back to maps of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from patchcore_plugin.data.images import to_unit

from .recipes import Map, Preprocessing


@dataclass(frozen=True)
class Geometry:
    """Mapping between an image and the network's input.

    Parameters
    ----------
    image
        Height and width of the image.
    resized
        Height and width that the whole image is resized to.
    crop
        Top, left, height and width of the input within the resized image.
    """

    image: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int, int, int]

    def to_image(self, row: float, column: float) -> tuple[float, float]:
        """Return the image position of a position of the network's input.

        Parameters
        ----------
        row, column
            Position in the input, in pixels from its top left corner.

        Returns
        -------
        tuple of float
            x and y, in pixels from the top left corner of the image.
        """
        top, left, _, _ = self.crop
        y = (top + row) * self.image[0] / self.resized[0]
        x = (left + column) * self.image[1] / self.resized[1]
        return x, y

    def box(self) -> tuple[int, int, int, int]:
        """Return the inspected part of the image as top, left, bottom, right, in whole pixels."""
        _, _, height, width = self.crop
        left, top = self.to_image(0, 0)
        right, bottom = self.to_image(height, width)
        return round(top), round(left), round(bottom), round(right)


def geometry(options: Preprocessing, image: tuple[int, int]) -> Geometry:
    """Return how an image is resized and cropped.

    Parameters
    ----------
    options
        Size, crop, and whether to keep the aspect ratio.
    image
        Height and width of the image, in pixels.
    """
    height, width = options.size
    if options.keep_aspect:
        scale = max(height / image[0], width / image[1])
        height, width = max(height, round(image[0] * scale)), max(width, round(image[1] * scale))
    crop_height, crop_width = options.crop or (height, width)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return Geometry(image=image, resized=(height, width), crop=(top, left, crop_height, crop_width))


def prepare(image: NDArray[Any], options: Preprocessing) -> Tensor:
    """Return an image as input of the network, before the backbone's normalisation.

    Parameters
    ----------
    image
        RGB [H, W, 3]; uint8, uint16, or float32 in 0..1.
    options
        Size, crop, and whether to keep the aspect ratio.

    Returns
    -------
    Tensor
        float32 [3, h, w] in 0..1: resized bilinearly with antialiasing, then cropped.
    """
    shape = geometry(options, (image.shape[0], image.shape[1]))
    top, left, height, width = shape.crop
    prepared = torch.empty(3, height, width)
    for channel in range(3):  # one at a time: float32 copies of a large image take four times its memory
        pixels = torch.from_numpy(to_unit(np.ascontiguousarray(image[..., channel])))[None, None]
        if pixels.shape[2:] != shape.resized:
            pixels = F.interpolate(pixels, size=shape.resized, mode="bilinear", antialias=True, align_corners=False)
        prepared[channel] = pixels[0, 0, top : top + height, left : left + width]
    return prepared


def anomaly_map(scores: NDArray[np.float32], shape: Geometry, options: Map) -> NDArray[np.float32]:
    """Return patch scores as a map of the image, float32 [H, W]; see `mean_anomaly_map`.

    Parameters
    ----------
    scores
        Patch scores, float32 [h, w].
    shape
        How the image was resized and cropped.
    options
        How patch scores are upsampled and blurred.
    """
    return mean_anomaly_map([scores], shape, options)


def mean_anomaly_map(grids: Sequence[NDArray[np.float32]], shape: Geometry, options: Map) -> NDArray[np.float32]:
    """Return the mean of grids of patch scores as a map of the image.

    Each grid is upsampled to the size of the network's input; the mean is blurred there (sigma in its pixels; Gaussian
    up to four sigma, borders reflected) and resized to the inspected part of the image. Blur and resizing are linear,
    so that one pass serves all grids.

    Parameters
    ----------
    grids
        float32 [h, w] of at least one member; sizes may differ.
    shape
        How the image was prepared.
    options
        Interpolation and blur.

    Returns
    -------
    ndarray
        float32 [H, W] of the image's own size, 0 outside the inspected part.
    """
    _, _, height, width = shape.crop
    interpolation = cv2.INTER_LINEAR if options.upsample == "bilinear" else cv2.INTER_NEAREST
    maps = [cv2.resize(grid, (width, height), interpolation=interpolation) for grid in grids]
    full = np.asarray(maps[0] if len(maps) == 1 else np.stack(maps).mean(axis=0), dtype=np.float32)
    if options.sigma > 0:
        side = 2 * int(4 * options.sigma + 0.5) + 1
        full = np.asarray(
            cv2.GaussianBlur(full, (side, side), options.sigma, borderType=cv2.BORDER_REFLECT), dtype=np.float32
        )
    top, left, bottom, right = shape.box()
    inside = cv2.resize(full, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    if inside.shape == shape.image:
        return np.asarray(inside, dtype=np.float32)
    whole = np.zeros(shape.image, dtype=np.float32)
    whole[top:bottom, left:right] = inside
    return whole


def map_matrix(cells: int, length: int, options: Map) -> NDArray[np.float32]:
    """Return the matrix [length, cells] that upsamples and blurs one axis of a grid of patch scores.

    Both operations are linear and treat the axes separately, so a map is ``rows @ grid @ columns.T``. The columns
    are the results for unit impulses.

    Parameters
    ----------
    cells
        Number of patches along the axis.
    length
        Length of the axis in the image, in pixels.
    options
        How patch scores are upsampled and blurred.
    """
    column = Geometry(image=(length, 1), resized=(length, 1), crop=(0, 0, length, 1))
    impulses = np.eye(cells, dtype=np.float32)
    return np.concatenate([anomaly_map(impulse[:, None], column, options) for impulse in impulses], axis=1)
