"""Pictures as small JPEG and PNG files in memory, for pages, reports and thumbnails."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .types import Rgb


def downscale(pixels: npt.NDArray[Any], longest: int) -> npt.NDArray[Any]:
    """Return an image whose longer side has at most `longest` pixels; a smaller one is returned as it is.

    Parameters
    ----------
    pixels
        [H, W] or [H, W, C], uint8, uint16 or float32.
    longest
        Pixels of the longer side; the shorter side keeps at least one.

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
    """Return an RGB image, uint8 [H, W, 3], as a JPEG file; `quality` is from 0 to 100."""
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def encode_png(pixels: npt.NDArray[Any], compression: int | None = None) -> bytes:
    """Return an image as a PNG file.

    Parameters
    ----------
    pixels
        uint8 or uint16; grey [H, W], RGB [H, W, 3] or RGBA [H, W, 4].
    compression
        Effort, from 0 to 9; OpenCV's default if None.
    """
    if pixels.ndim == 3:
        order = [2, 1, 0, 3][: pixels.shape[2]]
        pixels = pixels[..., order]
    options = [] if compression is None else [cv2.IMWRITE_PNG_COMPRESSION, compression]
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels), options)
    return encoded.tobytes()
