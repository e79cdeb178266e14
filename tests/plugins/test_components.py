"""The built-in aggregator, samplers and scorer, created as users create them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.kernels.coreset.reference import greedy
from patchcore_plugin.kernels.embedding.reference import unfold_embedding

HOST = pp.Host(entry_points=False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bank_of(vectors: Tensor) -> pp.MemoryBank:
    return pp.MemoryBank(vectors=vectors, origin=torch.zeros(len(vectors), 3, dtype=torch.int64))


def literal_knn(grid: Tensor, bank: Tensor, neighbours: int, reweight: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Equations 6 and 7 of arXiv 2106.08265 as they are written, in float64, one patch at a time."""
    images, maps, rows = [], [], []
    for image in grid.double():
        patches = image.reshape(-1, image.shape[-1])
        distances = torch.stack([(bank.double() - patch).norm(dim=1) for patch in patches])
        nearest = distances.min(dim=1)
        star = int(nearest.values.argmax())
        m_star = int(nearest.indices[star])
        s_star = nearest.values[star]
        around = (bank.double() - bank[m_star].double()).norm(dim=1).argsort(stable=True)[:neighbours]
        shares = torch.softmax((bank[around].double() - patches[star]).norm(dim=1), dim=0)
        # m* is its own nearest row, so its share comes first.
        images.append((1 - shares[0]) * s_star if reweight and len(bank) > 1 else s_star)
        maps.append(nearest.values.reshape(image.shape[:2]))
        rows.append(nearest.indices.reshape(image.shape[:2]))
    return torch.stack(images), torch.stack(maps), torch.stack(rows)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 3000.0])
@pytest.mark.parametrize("rows", [1, 2, 5, 9, 400])
def test_knn_equals_the_equations_in_float64(scale: float, rows: int) -> None:
    bank, grid = normal(rows, 12) * scale, normal(3, 4, 5, 12, seed=1) * scale
    scorer = HOST.create("scorer", "knn", neighbours=9)
    scorer.fit(bank_of(bank))
    got = scorer(pp.Patches(grid=grid))
    image, anomaly_map, nearest = literal_knn(grid, bank, 9)
    assert anomaly_map.max() > scale
    assert got.map is not None
    assert got.nearest is not None
    torch.testing.assert_close(got.image.double(), image, rtol=1e-6, atol=1e-6 * scale)
    torch.testing.assert_close(got.map.double(), anomaly_map, rtol=1e-6, atol=0)
    assert torch.equal(got.nearest, nearest)


def test_knn_reaches_distances_of_1e4() -> None:
    bank, grid = normal(300, 12) * 1000, normal(2, 3, 3, 12, seed=1) * 4000
    scorer = HOST.create("scorer", "knn")
    scorer.fit(bank_of(bank))
    got = scorer(pp.Patches(grid=grid))
    assert got.map is not None
    assert 1e4 < float(got.map.max()) < 3e4
    torch.testing.assert_close(got.image.double(), literal_knn(grid, bank, 9)[0], rtol=1e-6, atol=0)


def test_knn_without_reweighting_is_the_largest_distance() -> None:
    bank, grid = normal(50, 6), normal(2, 3, 4, 6, seed=1)
    scorer = HOST.create("scorer", "knn", reweight=False)
    scorer.fit(bank_of(bank))
    got = scorer(pp.Patches(grid=grid))
    assert got.map is not None
    assert torch.equal(got.image, got.map.flatten(1).amax(dim=1))
    squared = HOST.create("scorer", "knn", reweight=False, squared=True)
    squared.fit(bank_of(bank))
    torch.testing.assert_close(squared(pp.Patches(grid=grid)).image, got.image**2)


def test_knn_restored_gives_the_same() -> None:
    bank, patches = bank_of(normal(50, 6)), pp.Patches(grid=normal(2, 3, 4, 6, seed=1))
    fitted, restored = HOST.create("scorer", "knn"), HOST.create("scorer", "knn")
    fitted.fit(bank)
    restored.restore(bank, fitted.state())
    assert torch.equal(fitted(patches).image, restored(patches).image)


def test_knn_refuses_wrong_calls() -> None:
    scorer = HOST.create("scorer", "knn")
    with pytest.raises(pp.TensorError, match="scorer 'knn': call fit"):
        scorer(pp.Patches(grid=normal(1, 2, 2, 4)))
    with pytest.raises(pp.TensorError, match="expected at least one bank vector"):
        scorer.fit(bank_of(normal(0, 4)))
    scorer.fit(bank_of(normal(5, 4)))
    with pytest.raises(pp.TensorError, match=r"4 values .* got 3"):
        scorer(pp.Patches(grid=normal(1, 2, 2, 3)))


def test_coreset_sampler_is_the_greedy_selection() -> None:
    vectors = normal(2000, 10)
    sampler: Any = HOST.create("sampler", "greedy-coreset", ratio=0.1, projection_dim=None, seed=0)
    index = sampler(vectors)
    wanted, radii = greedy(vectors, 200, int(index[0]))
    assert torch.equal(index, wanted)
    assert torch.equal(sampler.radii_, radii)


@pytest.mark.parametrize("options", [{"projection_dim": None}, {"projection_dim": 8}])
def test_coreset_sampler_depends_on_its_seed_alone(options: dict[str, Any]) -> None:
    vectors = normal(1000, 16)

    def select(seed: int) -> list[int]:
        return HOST.create("sampler", "greedy-coreset", ratio=0.05, seed=seed, **options)(vectors).tolist()

    torch.manual_seed(1)
    first, state = select(0), torch.get_rng_state()
    torch.manual_seed(2)
    assert select(0) == first
    assert select(1) != first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_coreset_sampler_takes_count_and_radius() -> None:
    vectors = normal(1000, 4)
    assert len(HOST.create("sampler", "greedy-coreset", count=17)(vectors)) == 17
    sampler: Any = HOST.create("sampler", "greedy-coreset", ratio=1.0, radius=1.0)
    index = sampler(vectors)
    assert len(index) < 1000
    assert torch.cdist(vectors, vectors[index]).amin(dim=1).max() <= 1.0001
    assert len(HOST.create("sampler", "greedy-coreset", count=2000)(vectors)) == 1000


def test_projected_coreset_has_no_radii() -> None:
    sampler: Any = HOST.create("sampler", "greedy-coreset", ratio=0.1, projection_dim=4)
    sampler(normal(300, 16))
    assert sampler.radii_ is None


def test_random_sampler() -> None:
    vectors = normal(1000, 4)
    index = HOST.create("sampler", "random", ratio=0.1, seed=3)(vectors)
    assert len(index) == len(set(index.tolist())) == 100
    assert torch.equal(index, HOST.create("sampler", "random", ratio=0.1, seed=3)(vectors))
    assert not torch.equal(index, HOST.create("sampler", "random", ratio=0.1, seed=4)(vectors))
    assert len(HOST.create("sampler", "random", count=1001)(vectors)) == 1000


def test_all_sampler() -> None:
    assert HOST.create("sampler", "all")(normal(7, 2)).tolist() == list(range(7))


def test_average_pool_with_and_without_embed_dim() -> None:
    maps = [normal(2, 48, 9, 8), normal(2, 96, 5, 4, seed=1)]
    before = [each.clone() for each in maps]
    concatenated = HOST.create("aggregator", "average-pool", patch_size=3)(maps)
    embedded = HOST.create("aggregator", "average-pool", patch_size=3, embed_dim=1024)(maps)
    assert concatenated.grid.shape == (2, 9, 8, 144)
    assert embedded.grid.shape == (2, 9, 8, 1024)
    torch.testing.assert_close(embedded.grid, unfold_embedding(maps, 3, 1, 1024), atol=1e-5, rtol=0)
    assert all(torch.equal(now, then) for now, then in zip(maps, before, strict=True))


def test_average_pool_stride_divides_the_grid() -> None:
    grid = HOST.create("aggregator", "average-pool", stride=2)([normal(1, 4, 9, 9), normal(1, 4, 5, 5)]).grid
    assert grid.shape == (1, 5, 5, 8)


def test_average_pool_refuses_wrong_maps() -> None:
    aggregate = HOST.create("aggregator", "average-pool")
    with pytest.raises(pp.TensorError, match="got none"):
        aggregate([])
    with pytest.raises(pp.TensorError, match="of one batch"):
        aggregate([normal(1, 2, 3, 3), normal(2, 2, 3, 3)])


def test_records_refuse_wrong_shapes() -> None:
    with pytest.raises(pp.TensorError, match=r"Patches.grid: expected shape \[B, h, w, D\], got \[2, 3\]"):
        pp.Patches(grid=normal(2, 3))
    with pytest.raises(pp.TensorError, match=r"MemoryBank.origin: expected shape \[5, 3\], one row per vector"):
        pp.MemoryBank(vectors=normal(5, 2), origin=torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(pp.TensorError, match=r"Scores.map: expected shape \[B, h, w\], got \[2\]"):
        pp.Scores(image=normal(2), map=normal(2))
    assert bank_of(normal(5, 2)).seen == 5


@pytest.mark.parametrize("name", ["all", "random"])
@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 3, 4)])
def test_simple_samplers_refuse_wrong_shapes(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(pp.TensorError, match=re.escape(f"got {list(shape)}")):
        HOST.create("sampler", name)(torch.zeros(shape))
