"""Small copies of training images, kept as JPEG files in a model file."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcore_plugin.errors import ModelFileError

from .headers import ContainerError, inspect
from .images import to_8_bit
from .types import Rgb

LONGEST = 512
"""Pixels of a thumbnail's longer side at most."""
LIMIT = 4096
"""Pixels of either side that are read at most: what a model file says is not trusted."""
QUALITY = 90
_DATA, _OFFSETS = "thumbnails.data", "thumbnails.offsets"


def thumbnail(image: NDArray[Any]) -> bytes:
    """Return a small copy of an RGB image [H, W, 3] (uint8, uint16, or floats in 0..1) as a JPEG file."""
    pixels = to_8_bit(image)
    scale = LONGEST / max(pixels.shape[:2])
    if scale < 1:
        # Of an image that is very long and narrow, one pixel across stays.
        size = max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1)
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return encoded.tobytes()


def decoded(jpeg: bytes) -> Rgb:
    """Return the pixels of a thumbnail, RGB uint8 [H, W, 3].

    Raises
    ------
    ModelFileError
        If it is no JPEG file, or larger than `LIMIT`.
    """
    try:
        container = inspect(jpeg)
    except ContainerError as error:
        raise _damaged(str(error)) from None
    height, width = container.size
    if container.format != "JPEG" or not (0 < height <= LIMIT and 0 < width <= LIMIT):
        raise _damaged(f"a {container.format} file of {width} x {height} pixels")
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise _damaged("it cannot be decoded")
    return np.ascontiguousarray(pixels[..., ::-1], dtype=np.uint8)


def packed(thumbnails: Mapping[int, bytes], images: int) -> dict[str, Tensor]:
    """Return the thumbnails of so many training images, by their numbers, as tensors; no tensors for none.

    The files lie one after the other, uint8 [bytes], between offsets, int64 [images + 1]; an image without one takes
    no byte.
    """
    if not thumbnails:
        return {}
    files = [thumbnails.get(number, b"") for number in range(images)]
    offsets = np.cumsum([0, *map(len, files)], dtype=np.int64)
    data = np.frombuffer(bytearray(b"".join(files)), dtype=np.uint8)
    return {_DATA: torch.from_numpy(data), _OFFSETS: torch.from_numpy(offsets)}


def unpacked(path: Path, tensors: Mapping[str, Tensor], images: int) -> dict[int, bytes]:
    """Return what `packed` made tensors of; nothing, if the model file at `path` has no thumbnails.

    Raises
    ------
    ModelFileError
        If the tensors are not those of thumbnails of so many images.
    """
    if _DATA not in tensors:
        return {}
    data, offsets = tensors[_DATA], tensors.get(_OFFSETS)
    if (
        offsets is None
        or (data.dtype, offsets.dtype) != (torch.uint8, torch.int64)
        or (data.ndim, offsets.shape) != (1, (images + 1,))
        or (int(offsets[0]), int(offsets[-1])) != (0, len(data))
        or bool((offsets.diff() < 0).any())
    ):
        raise ModelFileError(f"{path}: damaged (its thumbnails are not those of {images} images); fit again")
    files, ends = data.numpy().tobytes(), offsets.tolist()
    each = (files[start:end] for start, end in pairwise(ends))
    return {number: file for number, file in enumerate(each) if file}


def _damaged(reason: str) -> ModelFileError:
    return ModelFileError(f"a thumbnail in the model file is damaged ({reason}); fit again")
