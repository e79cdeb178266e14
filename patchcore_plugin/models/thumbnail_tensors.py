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
    """Return thumbnails as tensors; none without thumbnails.

    The tensors are the concatenated files, uint8 [bytes], and their offsets, int64 [images + 1]. The file of an image
    without thumbnail has length 0.

    Parameters
    ----------
    thumbnails
        JPEG files, by number of the training image.
    images
        Number of training images.
    """
    if not thumbnails:
        return {}
    files = [thumbnails.get(number, b"") for number in range(images)]
    offsets = np.cumsum([0, *map(len, files)], dtype=np.int64)
    data = np.frombuffer(bytearray(b"".join(files)), dtype=np.uint8)
    return {_DATA: torch.from_numpy(data), _OFFSETS: torch.from_numpy(offsets)}


def unpack_thumbnails(path: Path, tensors: Mapping[str, Tensor], images: int) -> dict[int, bytes]:
    """Return the thumbnails in the tensors of a model file; empty if there are none.

    Parameters
    ----------
    path
        The model file, for messages.
    tensors
        Those of `pack_thumbnails`, among others.
    images
        Number of training images.

    Raises
    ------
    ModelFileError
        If the tensors are not the thumbnails of that number of images.
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
    parts = (files[start:end] for start, end in pairwise(ends))
    return {number: part for number, part in enumerate(parts) if part}
