"""Synthetic vectors with the structure of patch features; needs only torch."""

from __future__ import annotations

import torch
from torch import Tensor


def patch_features(count: int, dims: int) -> Tensor:
    """Return vectors [count, dims] distributed like patch features: in clusters, with few intrinsic dimensions."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(64, 24, generator=generator) * 3
    which = torch.randint(64, (count,), generator=generator)
    latent = centres[which] + torch.randn(count, 24, generator=generator)
    return latent @ torch.randn(24, dims, generator=generator) + 0.1 * torch.randn(count, dims, generator=generator)
