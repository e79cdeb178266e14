"""Aggregator `average-pool`: levels, selected channels, and image descriptors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import patchcore_plugin as pp

HOST = pp.Host(entry_points=False)


def maps(*shapes: tuple[int, int, int]) -> list[Tensor]:
    return [torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)) for seed, shape in enumerate(shapes)]


THREE = maps((12, 8, 6), (20, 4, 3), (30, 2, 2))


def pooled(features: list[Tensor], **options: Any) -> pp.Patches:
    patches: pp.Patches = HOST.create("aggregator", "average-pool", **options)(features)
    return patches


def test_levels_are_the_channels_of_each_map() -> None:
    assert pooled(THREE).levels == (12, 20, 30)
    assert pooled(THREE, embed_dim=16).levels is None


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
@pytest.mark.parametrize("patch_size", [1, 3])
def test_selected_channels_are_those_of_the_concatenation(upsample: str, patch_size: int) -> None:
    whole = pooled(THREE, upsample=upsample, patch_size=patch_size).grid
    chosen = pooled(THREE, upsample=upsample, patch_size=patch_size, channels=25, seed=3)
    order = torch.randperm(62, generator=torch.Generator().manual_seed(3))
    index = order[:25].sort().values
    torch.testing.assert_close(chosen.grid, whole[..., index], atol=1e-6, rtol=0)
    assert chosen.levels == tuple(
        int(((index >= low) & (index < high)).sum()) for low, high in ((0, 12), (12, 32), (32, 62))
    )


def test_selection_depends_on_the_seed_only() -> None:
    state = torch.get_rng_state()
    first, again, other = (pooled(THREE, channels=25, seed=seed).grid for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    run = pp.Recipe.load("padim").resolve(pp.Host(), 7)
    assert run.aggregator.options["seed"] == 7


def test_map_without_selected_channels_is_skipped() -> None:
    """The grid is still that of the first map."""
    lone = [pooled(THREE, channels=1, seed=seed) for seed in range(8)]
    assert {each.levels for each in lone} == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    assert {tuple(each.grid.shape) for each in lone} == {(2, 8, 6, 1)}


def test_all_channels_are_the_concatenation() -> None:
    assert torch.equal(pooled(THREE, channels=62).grid, pooled(THREE).grid)


def test_too_many_channels_are_refused() -> None:
    with pytest.raises(pp.TensorError, match=r"set aggregator.channels to at most 62"):
        pooled(THREE, channels=63)
    with pytest.raises(pp.OptionError, match="embed_dim"):
        pooled(THREE, channels=5, embed_dim=5)


@pytest.mark.parametrize("options", [{}, {"embed_dim": 10}, {"channels": 10}])
def test_last_map_is_the_image_descriptor(options: dict[str, Any]) -> None:
    with_image = pooled(THREE, image="last", **options)
    without = pooled(THREE[:2], **options)
    assert without.descriptors is None
    assert with_image.descriptors is not None
    torch.testing.assert_close(with_image.descriptors, THREE[2].flatten(2).mean(dim=2))
    assert torch.equal(with_image.grid, without.grid)
    assert with_image.levels == without.levels


def test_descriptor_needs_another_map_for_patches() -> None:
    with pytest.raises(pp.TensorError, match=r"backbone.layers, or set aggregator.image=none"):
        pooled(THREE[:1], image="last")
