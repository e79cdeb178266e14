"""Why an image was judged so: its most suspicious patch beside the normal patch that is nearest to it, as a picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from patchcore_plugin.data.images import read_image, to_8_bit
from patchcore_plugin.data.thumbnails import decode_thumbnail
from patchcore_plugin.data.types import Rgb
from patchcore_plugin.errors import ImageError
from patchcore_plugin.models.prediction import Nearest, Prediction

from .rendering import outlined

SHARE = 5
"""A crop is this part of the image's shorter side,"""
LEAST = 48
"""or so many pixels, if that is more."""
SIDE = 192
"""Both crops are resized to so many pixels,"""
GAP = 6
"""and are so many apart."""
REMEMBERED = 16
"""How many training images are kept, reduced, for the images to come."""


class Remembers(Protocol):
    """What is needed of a model: the JPEG files of training images by their numbers; empty if it keeps none."""

    @property
    def thumbnails(self) -> Mapping[int, bytes]: ...  # noqa: D102


class WhyPictures:
    """Draws the patches for which images were judged so, and remembers the training images that it read last.

    Parameters
    ----------
    model
        The model that judges; its training images are read from their files where it keeps no thumbnails.
    """

    def __init__(self, model: Remembers) -> None:
        self._thumbnails = model.thumbnails
        self._read: OrderedDict[int, Rgb | None] = OrderedDict()

    def __call__(self, pixels: NDArray[Any], prediction: Prediction) -> Rgb | None:
        """Return the surroundings of the most suspicious patch, and of the nearest normal one at its right.

        Both crops are of equal size, and the two patches are framed.

        Parameters
        ----------
        pixels
            The image that was judged, RGB [H, W, 3] of uint8, uint16 or floating point.
        prediction
            What was found in it.

        Returns
        -------
        Rgb or None
            uint8 [SIDE, 2 * SIDE + GAP, 3]; None if the method knows no nearest patch, or its image is not to be had.
        """
        nearest = prediction.nearest
        if nearest is None:
            return None
        normal = self._normal(nearest)
        if normal is None:
            return None
        gap = np.full((SIDE, GAP, 3), 255, dtype=np.uint8)
        size = pixels.shape[0], pixels.shape[1]
        judged = _crop(pixels, size, (nearest.peak_x, nearest.peak_y), nearest.peak_box)
        return np.hstack([judged, gap, _crop(normal, nearest.size, (nearest.x, nearest.y), nearest.box)])

    def _normal(self, nearest: Nearest) -> Rgb | None:
        """Return the training image, no larger than is of use; None if it is gone or another one now."""
        if nearest.number not in self._read:
            self._read[nearest.number] = self._load(nearest)
        self._read.move_to_end(nearest.number)
        while len(self._read) > REMEMBERED:
            self._read.popitem(last=False)
        return self._read[nearest.number]

    def _load(self, nearest: Nearest) -> Rgb | None:
        if nearest.number in self._thumbnails:
            return decode_thumbnail(self._thumbnails[nearest.number])
        if nearest.image is None:
            return None
        try:
            image = read_image(nearest.image)
        except ImageError:
            return None
        if image.shape[:2] != nearest.size:
            return None
        scale = SHARE * SIDE / min(nearest.size)
        pixels = to_8_bit(image)
        if scale >= 1:
            return pixels
        return np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def why_picture(pixels: NDArray[Any], prediction: Prediction, model: Remembers) -> Rgb | None:
    """Return the picture of one image; for several images of one model, `WhyPictures` reads training images once."""
    return WhyPictures(model)(pixels, prediction)


def _crop(pixels: NDArray[Any], size: tuple[int, int], centre: tuple[int, int], box: tuple[int, int, int, int]) -> Rgb:
    """Return the surroundings of a patch, [SIDE, SIDE, 3].

    Parameters
    ----------
    pixels
        The image, or a smaller copy of it.
    size
        Height and width of the image; ``centre`` (x, y) and ``box`` (left, top, width, height) are in its pixels.
    """
    side = min(max(min(size) // SHARE, LEAST), *size)
    left = min(max(centre[0] - side // 2, 0), size[1] - side)
    top = min(max(centre[1] - side // 2, 0), size[0] - side)
    tall, wide = pixels.shape[0] / size[0], pixels.shape[1] / size[1]
    # Of a long, narrow image, a crop can be less than a pixel of the thumbnail.
    x, y = min(round(left * wide), pixels.shape[1] - 1), min(round(top * tall), pixels.shape[0] - 1)
    width, height = max(round(side * wide), 1), max(round(side * tall), 1)
    part = to_8_bit(pixels[y : y + height, x : x + width])
    interpolation = cv2.INTER_AREA if width > SIDE else cv2.INTER_CUBIC
    enlarged = np.asarray(cv2.resize(part, (SIDE, SIDE), interpolation=interpolation), dtype=np.uint8)
    corners = np.array([[0, 0], [box[2], 0], [box[2], box[3]], [0, box[3]]]) + box[:2] - (left, top)
    return outlined(enlarged, [np.rint(corners * SIDE / side).astype(np.int32)])
