"""Small JPEG copies of training images, which a model file may hold."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchcore_plugin.errors import ModelFileError

from .encoding import downscale, encode_jpeg
from .headers import HeaderError, read_header
from .images import to_8_bit
from .types import Rgb

LONGEST = 512
"""Pixels of the longer side of a thumbnail."""
LIMIT = 4096
"""Most pixels of either side that are decoded, because model files are untrusted."""


def encode_thumbnail(image: NDArray[Any]) -> bytes:
    """Return a small copy of an image as a JPEG file.

    Parameters
    ----------
    image : ndarray of uint8, uint16 or floating point in 0..1, shape [H, W, 3]
        RGB.

    Returns
    -------
    bytes
        A JPEG file whose longer side has at most `LONGEST` pixels.

    Examples
    --------
    >>> decode_thumbnail(encode_thumbnail(np.zeros((600, 1024, 3), np.uint8))).shape
    (300, 512, 3)
    """
    return encode_jpeg(downscale(to_8_bit(image), LONGEST))


def decode_thumbnail(jpeg: bytes) -> Rgb:
    """Return the pixels of a thumbnail.

    Parameters
    ----------
    jpeg : bytes
        From `encode_thumbnail`, or an untrusted model file.

    Returns
    -------
    ndarray of uint8, shape [H, W, 3]
        RGB.

    Raises
    ------
    ModelFileError
        If it is not a JPEG file, or larger than `LIMIT`.
    """
    try:
        header = read_header(jpeg)
    except HeaderError as error:
        raise _damage_error(str(error)) from None
    height, width = header.size
    if header.format != "JPEG" or not (0 < height <= LIMIT and 0 < width <= LIMIT):
        raise _damage_error(f"a {header.format} file of {width} x {height} pixels")
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise _damage_error("it cannot be decoded")
    return np.ascontiguousarray(pixels[..., ::-1], dtype=np.uint8)


def _damage_error(reason: str) -> ModelFileError:
    return ModelFileError(f"a thumbnail in the model file is damaged ({reason}); fit again")
