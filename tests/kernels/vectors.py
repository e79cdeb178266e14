"""Vectors that several tests of kernels use."""

from __future__ import annotations

import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grid(side: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(float(side)), torch.arange(float(side)))


def clustered(count: int, dims: int) -> Tensor:
    centres = normal(40, dims, seed=1) * 5
    which = torch.randint(40, (count,), generator=torch.Generator().manual_seed(2))
    return centres[which] + normal(count, dims, seed=3) * 0.3
