"""Thumbnails as tensors of a model file."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchcore_plugin.errors import ModelFileError

_DATA, _OFFSETS = "thumbnails.data", "thumbnails.offsets"


def pack_thumbnails(thumbnails: Mapping[int, bytes], images: int) -> dict[str, Tensor]:
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


def unpack_thumbnails(path: Path, tensors: Mapping[str, Tensor], images: int) -> dict[int, bytes]:
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
