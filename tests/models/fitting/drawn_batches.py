"""Batches of training images without files or a backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

import patchcore_plugin as pp
from patchcore_plugin.models.fitting.batches import FeatureBatch, TrainingImage

DIMS = 4


def draw(images: int, seed: int = 0) -> pp.Patches:
    """Return random patches on a grid of 2 x 3, with image descriptors of two values."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.rand(images, 2, 3, DIMS, generator=generator)
    return pp.Patches(grid, torch.rand(images, 2, generator=generator))


def batch(patches: pp.Patches, indices: Sequence[int], *, held_out: bool = False) -> FeatureBatch:
    """Return a batch with the patches of some images, which are numbered by their index."""
    images = [TrainingImage(index, f"{index}.png", (20, 30)) for index in indices]
    descriptors = None if patches.descriptors is None else patches.descriptors[list(indices)]
    return FeatureBatch(images, [], pp.Patches(patches.grid[list(indices)], descriptors), held_out)
