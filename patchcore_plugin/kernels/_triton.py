"""Whether the Triton kernels can be used, without importing triton."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil

import torch
from torch import Tensor

from .quantisation import encodable


def usable(points: Tensor) -> bool:
    """Return whether the Triton kernels can process points [n, D]: on a supported GPU, representable as codes."""
    return points.is_cuda and encodable(points) and _is_supported(points.device)


@functools.cache
def _is_supported(device: torch.device) -> bool:
    # 8-bit products and asynchronous copies need capability 8.0. Triton compiles its launchers on the machine.
    compilers = (os.environ.get("CC", ""), "clang", "gcc")
    return (
        torch.version.cuda is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and importlib.util.find_spec("triton") is not None
        and any(shutil.which(compiler) for compiler in compilers if compiler)
    )
