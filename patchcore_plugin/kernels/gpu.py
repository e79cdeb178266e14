"""Whether the Triton kernels can be used; without them torch does the same on any device."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil

import torch
from torch import Tensor

from .quantised import codable


def serves(points: Tensor) -> bool:
    """Whether the Triton kernels can take these points: [n, D], on a GPU."""
    return points.is_cuda and codable(points) and _installed(points.device)


@functools.cache
def _installed(device: torch.device) -> bool:
    # 8-bit products and asynchronous copies begin with 8.0. Triton's launchers are compiled on the machine.
    compilers = (os.environ.get("CC", ""), "clang", "gcc")
    return (
        torch.version.cuda is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and importlib.util.find_spec("triton") is not None
        and any(shutil.which(each) for each in compilers if each)
    )
