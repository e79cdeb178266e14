"""The kernels beside their references, on the same inputs; what is timed is checked.

`make bench` times them. Among the tests they run once, untimed, so that they never rot.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from patchcore_plugin.kernels.coreset import greedy_coreset
from patchcore_plugin.kernels.coreset.reference import greedy
from patchcore_plugin.kernels.embedding import adaptive_embedding
from patchcore_plugin.kernels.embedding.reference import unfold_embedding
from patchcore_plugin.kernels.nearest import NearestRows


def patch_features(count: int, dims: int) -> Tensor:
    """Vectors that lie as patch features do: many near each other, few apart, in few of their dimensions."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(64, 24, generator=generator) * 3
    which = torch.randint(64, (count,), generator=generator)
    latent = centres[which] + torch.randn(count, 24, generator=generator)
    return latent @ torch.randn(24, dims, generator=generator) + 0.1 * torch.randn(count, dims, generator=generator)


@pytest.mark.benchmark(group="coreset, 8,000 x 64, 10 %")
@pytest.mark.parametrize("select", [greedy, greedy_coreset], ids=["reference", "lazy"])
def test_coreset(benchmark: BenchmarkFixture, select: Callable[[Tensor, int, int], tuple[Tensor, Tensor]]) -> None:
    points = patch_features(8_000, 64)
    index, _ = benchmark.pedantic(select, args=(points, 800, 0), rounds=3)
    assert torch.equal(index, greedy_coreset(points, 800, 0)[0])


def _cdist(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    found = torch.cdist(queries, bank).min(dim=1)
    return found.values[:, None], found.indices[:, None]


@pytest.mark.benchmark(group="nearest, 1,568 x 4,000 x 512")
@pytest.mark.parametrize("which", ["cdist", "screened"])
def test_nearest(benchmark: BenchmarkFixture, which: str) -> None:
    vectors = patch_features(5_568, 512)
    queries, bank = vectors[:1_568], vectors[1_568:]
    search = NearestRows(bank) if which == "screened" else lambda each: _cdist(each, bank)
    distance, _ = benchmark.pedantic(search, args=(queries,), rounds=3)
    torch.testing.assert_close(distance.double(), NearestRows(bank)(queries)[0], rtol=1e-3, atol=1e-2)


@pytest.mark.benchmark(group="embedding, 2 photos, 512 + 1,024 channels to 1,024")
@pytest.mark.parametrize("which", ["unfold", "linear"])
def test_embedding(benchmark: BenchmarkFixture, which: str) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 512, 28, 28, generator=generator), torch.randn(2, 1024, 14, 14, generator=generator)]
    if which == "unfold":
        got = benchmark.pedantic(unfold_embedding, args=(maps, 3, 1, 1024), rounds=3)
    else:
        got = benchmark.pedantic(adaptive_embedding, args=(maps, 3, 1, 1024, "bilinear"), rounds=3)
    torch.testing.assert_close(got, unfold_embedding(maps, 3, 1, 1024), atol=1e-5, rtol=0)
