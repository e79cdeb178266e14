"""The k-means sampler, through the public API only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import patchcore_kmeans
import pytest
import torch
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.plugins.testing import parametrize_checks


@parametrize_checks(patchcore_kmeans)
def test_conformance(check: Callable[[], None]) -> None:
    check()


def sampler(**options: Any) -> pp.Sampler:
    return patchcore_kmeans.create(patchcore_kmeans.Config(**options))


def clusters(count: int, size: int) -> Tensor:
    """Return rows in clusters one after the other, each with its middle as its first row."""
    generator = torch.Generator().manual_seed(0)
    middles = torch.randn(count, 1, 16, generator=generator) * 100
    half = torch.randn(count, size // 2, 16, generator=generator)
    return torch.cat([middles, middles + half, middles - half], dim=1).flatten(0, 1)


def test_of_each_cluster_the_row_in_its_middle_stays() -> None:
    index = sampler(count=12, epochs=20)(clusters(12, 40))
    assert sorted(index.tolist()) == list(range(0, 12 * 41, 41))


VECTORS = torch.rand(500, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("options", "wanted"), [({"ratio": 0.1}, 50), ({"ratio": 0.1001}, 51), ({"count": 7}, 7), ({"count": 1}, 1)]
)
def test_ratio_and_count(options: dict[str, Any], wanted: int) -> None:
    assert len(sampler(**options)(VECTORS)) == wanted


def test_no_more_rows_stay_than_there_are() -> None:
    assert 250 < len(sampler(count=1000)(VECTORS)) <= 500


def test_the_seed_decides() -> None:
    first, again, other = (sampler(count=50, seed=seed)(VECTORS) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_more_epochs_bring_the_centres_nearer() -> None:
    hurried, patient = (
        torch.cdist(VECTORS, VECTORS[sampler(count=50, epochs=epochs, batch_size=100)(VECTORS)]).amin(dim=1).square()
        for epochs in (1, 50)
    )
    assert patient.mean() < hurried.mean()


def test_half_precision_is_taken() -> None:
    assert len(sampler(count=4)(clusters(4, 20).bfloat16())) == 4


def test_wrong_vectors_are_named() -> None:
    with pytest.raises(pp.TensorError) as caught:
        sampler()(torch.zeros(0, 4))
    assert str(caught.value) == "sampler 'k-means': expected vectors [N, D], N and D at least 1, got [0, 4]"
