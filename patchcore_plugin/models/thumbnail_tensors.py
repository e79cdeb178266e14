"""Thumbnails of training images as tensors of a model file."""

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
    """Return thumbnails as tensors for a model file.

    Parameters
    ----------
    thumbnails : mapping of int to bytes
        JPEG files by the numbers of their training images; not every image needs one.
    images : int
        Number of training images.

    Returns
    -------
    dict of str to Tensor
        The files in the order of their images, uint8 [bytes], and their offsets, int64 [images + 1]. An image without a
        thumbnail takes no bytes. Empty if there are no thumbnails.

    Examples
    --------
    >>> pack_thumbnails({1: b"file"}, 3)["thumbnails.offsets"].tolist()
    [0, 0, 4, 4]
    """
    if not thumbnails:
        return {}
    files = [thumbnails.get(number, b"") for number in range(images)]
    offsets = np.cumsum([0, *map(len, files)], dtype=np.int64)
    data = np.frombuffer(bytearray(b"".join(files)), dtype=np.uint8)
    return {_DATA: torch.from_numpy(data), _OFFSETS: torch.from_numpy(offsets)}


def unpack_thumbnails(path: Path, tensors: Mapping[str, Tensor], images: int) -> dict[int, bytes]:
    """Return the thumbnails in the tensors of a model file.

    Parameters
    ----------
    path : Path
        The model file, for the message.
    tensors : mapping of str to Tensor
        Tensors of the model file, with those of `pack_thumbnails` among them or without.
    images : int
        Number of training images.

    Returns
    -------
    dict of int to bytes
        JPEG files by the numbers of their training images; empty if the model file has no thumbnails.

    Raises
    ------
    ModelFileError
        If the tensors do not describe thumbnails of this number of images.
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
    contents = data.numpy().tobytes()
    files = (contents[start:end] for start, end in pairwise(offsets.tolist()))
    return {number: file for number, file in enumerate(files) if file}
