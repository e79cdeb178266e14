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
    """Return the rows of one cluster after the other, each with its centre as the first row."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(count, 1, 16, generator=generator) * 100
    half = torch.randn(count, size // 2, 16, generator=generator)
    return torch.cat([centres, centres + half, centres - half], dim=1).flatten(0, 1)


def test_central_row_of_each_cluster_is_kept() -> None:
    index = sampler(count=12, epochs=20)(clusters(12, 40))
    assert sorted(index.tolist()) == list(range(0, 12 * 41, 41))


VECTORS = torch.rand(500, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("options", "count"), [({"ratio": 0.1}, 50), ({"ratio": 0.1001}, 51), ({"count": 7}, 7), ({"count": 1}, 1)]
)
def test_ratio_and_count(options: dict[str, Any], count: int) -> None:
    assert len(sampler(**options)(VECTORS)) == count


def test_count_above_number_of_rows() -> None:
    assert 250 < len(sampler(count=1000)(VECTORS)) <= 500


def test_seed_decides() -> None:
    first, again, other = (sampler(count=50, seed=seed)(VECTORS) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_more_epochs_reduce_distances() -> None:
    short, long = (
        torch.cdist(VECTORS, VECTORS[sampler(count=50, epochs=epochs, batch_size=100)(VECTORS)]).amin(dim=1).square()
        for epochs in (1, 50)
    )
    assert long.mean() < short.mean()


def test_half_precision_works() -> None:
    assert len(sampler(count=4)(clusters(4, 20).bfloat16())) == 4


def test_wrong_vectors_are_refused() -> None:
    with pytest.raises(pp.TensorError, match=r"got \[0, 4\]"):
        sampler()(torch.zeros(0, 4))
