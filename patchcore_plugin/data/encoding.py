"""Small JPEG and PNG files in memory, for pages, reports and thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from patchcore_plugin.errors import ImageError

from .types import Rgb


def downscale(pixels: npt.NDArray[Any], longest: int) -> npt.NDArray[Any]:
    """Return an image whose longer side has at most `longest` pixels; a smaller image is returned unchanged.

    Parameters
    ----------
    pixels : ndarray of uint8, uint16 or float32, shape [H, W] or [H, W, C]
        The image.
    longest : int
        Pixels of the longer side. The shorter side keeps at least one.

    Returns
    -------
    ndarray
        Of the dtype of `pixels`, each pixel the mean of the area that it covers.

    Examples
    --------
    >>> downscale(np.zeros((600, 1200, 3), np.uint8), 300).shape
    (150, 300, 3)
    """
    scale = longest / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=pixels.dtype)


def encode_jpeg(pixels: Rgb, quality: int = 90) -> bytes:
    """Return an image as a JPEG file.

    Parameters
    ----------
    pixels : ndarray of uint8, shape [H, W, 3]
        RGB.
    quality : int
        From 0 to 100.

    Returns
    -------
    bytes

    Raises
    ------
    ImageError
        If the image is too large for the format.

    Examples
    --------
    >>> encode_jpeg(np.zeros((8, 8, 3), np.uint8))[:2].hex()
    'ffd8'
    """
    return _encode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(pixels: npt.NDArray[Any], compression: int | None = None) -> bytes:
    """Return an image as a PNG file.

    Parameters
    ----------
    pixels : ndarray of uint8 or uint16, shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]
        Grey, RGB or RGBA.
    compression : int, optional
        Effort, from 0 to 9; OpenCV's default if not given.

    Returns
    -------
    bytes

    Raises
    ------
    ImageError
        If the image is too large for the format.

    Examples
    --------
    >>> encode_png(np.zeros((8, 8), np.uint8))[1:4]
    b'PNG'
    """
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return _encode(".png", pixels, [] if compression is None else [cv2.IMWRITE_PNG_COMPRESSION, compression])


def _encode(suffix: str, pixels: npt.NDArray[Any], options: Sequence[int]) -> bytes:
    try:
        is_encoded, file = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
    except cv2.error:
        is_encoded = False
    if not is_encoded:
        raise ImageError(f"cannot encode {list(pixels.shape)} as {suffix[1:].upper()}; make the image smaller")
    return file.tobytes()
