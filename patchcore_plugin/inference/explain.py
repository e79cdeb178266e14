"""Explanations: the most anomalous patch of an image next to the normal patch that is nearest to it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchcore_plugin.data.encoding import downscale
from patchcore_plugin.data.images import read_image, to_8_bit
from patchcore_plugin.data.thumbnails import decode_thumbnail
from patchcore_plugin.data.types import Rgb
from patchcore_plugin.errors import ImageError

from .rendering import draw_outlines

if TYPE_CHECKING:
    from patchcore_plugin.models.prediction import Prediction

CROP_DIVISOR = 5
"""A crop is the image's shorter side divided by this number,"""
MIN_CROP = 48
"""but not less than this number of pixels."""
SIDE = 192
"""Width and height, in pixels, to which both crops are resized."""
GAP = 6
"""Pixels between the two crops."""
CACHE_SIZE = 16
"""Number of downscaled training images kept in memory."""


class ExplanationPictures:
    """Draws the explanations of a model's predictions and caches the training images they need.

    Parameters
    ----------
    thumbnails
        The model's ``thumbnails``: JPEG files of training images by image number. Training images without a
        thumbnail are read from their own files.
    """

    def __init__(self, thumbnails: Mapping[int, bytes]) -> None:
        self._thumbnails = thumbnails
        self._training_image = lru_cache(CACHE_SIZE)(self._load)

    def __call__(self, prediction: Prediction) -> Rgb | None:
        """Draw the most anomalous patch on the left and the nearest normal patch on the right, both outlined.

        Parameters
        ----------
        prediction
            A prediction with ``pixels``.

        Returns
        -------
        ndarray of uint8, shape [SIDE, 2 * SIDE + GAP, 3], or None
            None if the prediction has no pixels or no nearest patch, or if the training image is missing, has
            changed its size or cannot be read.

        Raises
        ------
        ModelFileError
            If the thumbnail is damaged.
        """
        nearest, pixels = prediction.nearest, prediction.pixels
        if nearest is None or pixels is None:
            return None
        normal = self._training_image(nearest.number, nearest.image, nearest.size)
        if normal is None:
            return None
        gap = np.full((SIDE, GAP, 3), 255, dtype=np.uint8)
        anomalous_crop = _crop(pixels, prediction.size, (nearest.peak_x, nearest.peak_y), nearest.peak_box)
        normal_crop = _crop(normal, nearest.size, (nearest.x, nearest.y), nearest.box)
        return np.hstack([anomalous_crop, gap, normal_crop])

    def _load(self, number: int, path: str | None, size: tuple[int, int]) -> Rgb | None:
        if number in self._thumbnails:
            return decode_thumbnail(self._thumbnails[number])
        if path is None:
            return None
        try:
            image = read_image(path)
        except ImageError:
            return None
        if image.shape[:2] != size:
            return None
        # At this size a crop has SIDE pixels.
        longest = round(CROP_DIVISOR * SIDE * max(size) / min(size))
        return np.asarray(downscale(to_8_bit(image), longest), dtype=np.uint8)


def explanation_picture(prediction: Prediction, thumbnails: Mapping[int, bytes]) -> Rgb | None:
    """Draw the explanation of one prediction.

    To explain several predictions of a model, create one `ExplanationPictures`, which caches training images.

    Parameters
    ----------
    prediction
        A prediction with ``pixels``: pass ``keep_pixels=True`` to ``predict_each``.
    thumbnails
        The model's ``thumbnails``.

    Returns
    -------
    ndarray of uint8, shape [SIDE, 2 * SIDE + GAP, 3], or None
        The most anomalous patch on the left, the nearest normal patch on the right; None if there is no nearest patch
        or its training image is not available.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> from patchcore_plugin.data.encoding import encode_jpeg
    >>> image = np.zeros((64, 64, 3), dtype=np.uint8)
    >>> boxes = {"box": (8, 8, 8, 8), "peak_box": (40, 40, 8, 8)}
    >>> nearest = pp.Nearest(
    ...     image=None, number=0, size=(64, 64), x=12, y=12, peak_x=44, peak_y=44, distance=1.0, **boxes
    ... )
    >>> verdict = {"score": 1.0, "threshold": 0.5, "is_anomalous": True, "anomaly_map": None}
    >>> prediction = pp.Prediction(path=None, size=(64, 64), nearest=nearest, pixels=image, **verdict)
    >>> explanation_picture(prediction, {0: encode_jpeg(image)}).shape
    (192, 390, 3)
    """
    return ExplanationPictures(thumbnails)(prediction)


def _crop(pixels: NDArray[Any], size: tuple[int, int], centre: tuple[int, int], box: tuple[int, int, int, int]) -> Rgb:
    """Return the surroundings of a patch, [SIDE, SIDE, 3], with the patch outlined.

    `pixels` is the image or a downscaled copy. `size` (height, width), `centre` (x, y) and `box` (left, top, width,
    height) are in pixels of the full-size image.
    """
    side = min(max(min(size) // CROP_DIVISOR, MIN_CROP), *size)
    left = min(max(centre[0] - side // 2, 0), size[1] - side)
    top = min(max(centre[1] - side // 2, 0), size[0] - side)
    scale_y, scale_x = pixels.shape[0] / size[0], pixels.shape[1] / size[1]
    # In the thumbnail of a long, narrow image a crop can be less than a pixel.
    x, y = min(round(left * scale_x), pixels.shape[1] - 1), min(round(top * scale_y), pixels.shape[0] - 1)
    width, height = max(round(side * scale_x), 1), max(round(side * scale_y), 1)
    crop = to_8_bit(pixels[y : y + height, x : x + width])
    interpolation = cv2.INTER_AREA if width > SIDE else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(crop, (SIDE, SIDE), interpolation=interpolation), dtype=np.uint8)
    corners = np.array([[0, 0], [box[2], 0], [box[2], box[3]], [0, box[3]]]) + box[:2] - (left, top)
    return draw_outlines(resized, [np.rint(corners * SIDE / side).astype(np.int32)])
