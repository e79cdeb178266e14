"""Scorer `faiss`: equal to `knn` with a flat index, and the guarantees of approximate indexes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.kernels.nearest.reference import nearest_rows
from tests import real_images

faiss = pytest.importorskip("faiss")
HOST = pp.Host(entry_points=False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bank_of(vectors: Tensor) -> pp.MemoryBank:
    return pp.MemoryBank(vectors=vectors, origin=torch.zeros(len(vectors), 3, dtype=torch.int64))


def search(bank: Tensor, **options: Any) -> Any:
    """Return the search of a scorer fitted to a bank."""
    scorer: Any = HOST.create("scorer", "faiss", **options)
    scorer.fit(bank_of(bank))
    return scorer._search


@pytest.fixture
def fallback(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of queries that the exact search had to answer, one for each call."""
    counts: list[int] = []

    class Counting(NearestRows):
        def __call__(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
            counts.append(len(queries))
            return super().__call__(queries, k)

    monkeypatch.setattr("patchcore_plugin.plugins.builtin._faiss_rows.NearestRows", Counting)
    return counts


def assert_equal_to_reference(bank: Tensor, queries: Tensor, k: int, **options: Any) -> None:
    expected = nearest_rows(queries, bank, k)
    distance, row = search(bank, **options)(queries, k)
    assert torch.equal(row, expected[1])
    assert torch.equal(distance, expected[0])


@pytest.mark.parametrize("k", [1, 9])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-4, 300.0), (1e5, -3e7)])
def test_flat_index_is_exact(k: int, scale: float, offset: float, fallback: list[int]) -> None:
    bank, queries = (normal(n, 24, seed=n) * scale + offset for n in (700, 1100))
    assert_equal_to_reference(bank.double(), queries.double(), k)
    assert not fallback  # the candidates of faiss were proven exact


@pytest.mark.parametrize("k", [1, 5])
def test_rows_indistinguishable_in_float32_are_exact(k: int, fallback: list[int]) -> None:
    centres = normal(12, 16).double()
    bank = (centres[:, None] + normal(12, 60, 16, seed=1).double() * 1e-9).reshape(-1, 16)
    queries = torch.cat([centres + normal(12, 16, seed=2).double() * 1e-9, centres])
    assert_equal_to_reference(bank, queries, k)
    wrong = faiss.knn(queries.float().numpy(), bank.float().numpy(), k)[1]
    assert (wrong != nearest_rows(queries, bank, k)[1].numpy()).any()
    assert sum(fallback) > 12


def test_ties_go_to_the_lowest_row() -> None:
    bank = normal(40, 8).repeat(30, 1)
    assert_equal_to_reference(bank, normal(50, 8, seed=1), 1)
    assert_equal_to_reference(bank, bank[::7], 40)
    rows = normal(100, 8)  # tie at the origin, but not in float32 about another centre
    assert_equal_to_reference(torch.cat([rows, -rows, normal(50, 8, seed=1) + 9]), torch.zeros(1, 8), 30)


@pytest.mark.parametrize("rows", [1, 2, 5, 9, 12])
def test_all_rows_of_a_small_bank_are_candidates(rows: int, fallback: list[int]) -> None:
    bank = normal(rows, 6)
    assert_equal_to_reference(bank, normal(20, 6, seed=1), rows)
    assert rows > 9 or not fallback


@pytest.mark.parametrize("index", ["flat", "hnsw", "ivf"])
def test_queries_far_away_or_not_finite(index: str) -> None:
    bank, queries = normal(300, 6).double(), normal(20, 6, seed=1).double()
    for distance in (1e9, 1e30, 1e60):
        assert_equal_to_reference(bank, queries * distance, 1, index=index)
    with pytest.raises(pp.TensorError, match="distances need finite values"):
        search(bank, index=index)(torch.full((3, 6), torch.nan))


@pytest.mark.parametrize("options", [{}, {"reweight": False}, {"reweight": False, "squared": True}, {"neighbours": 3}])
@pytest.mark.parametrize("rows", [1, 5, 600])
def test_scores_are_those_of_knn(options: dict[str, Any], rows: int) -> None:
    bank, patches = bank_of(normal(rows, 12)), pp.Patches(grid=normal(3, 9, 7, 12, seed=1))
    scores = []
    for name in ("knn", "faiss"):
        scorer = HOST.create("scorer", name, **options)
        scorer.fit(bank)
        scores.append(scorer(patches))
    for field in ("image", "map", "nearest"):
        expected, tensor = (getattr(each, field) for each in scores)
        assert torch.equal(tensor, expected)


@pytest.mark.slow
@real_images.needed
def test_detector_with_faiss_predicts_as_with_knn(tmp_path: Path) -> None:
    good, test_images = (
        sorted((real_images.DATA / "hazelnut_reduced" / part).rglob("*.png"))[::8] for part in ("train/good", "test")
    )
    options = {"backbone": "efficientnet-lite0", "sampler": {"name": "random", "ratio": 0.2}}
    knn, flat = (
        pp.Detector.from_recipe("patchcore", scorer=name, **options).fit(good[:8])  # type: ignore[arg-type]
        for name in ("knn", "faiss")
    )
    flat.save(tmp_path / "m.safetensors")
    flat = pp.Detector.load(tmp_path / "m.safetensors")
    for expected, prediction in zip(knn.predict(test_images[:4]), flat.predict(test_images[:4]), strict=True):
        assert prediction.score == expected.score
        assert prediction.nearest == expected.nearest
        assert np.array_equal(prediction.anomaly_map, expected.anomaly_map)  # type: ignore[arg-type]


CLUSTERED = normal(60, 32).repeat_interleave(30, dim=0) * 3 + normal(1800, 32, seed=1)
QUERIES = normal(60, 32).repeat_interleave(10, dim=0) * 3 + normal(600, 32, seed=2)


@pytest.mark.parametrize("options", [{"index": "hnsw", "ef_search": 1800}, {"index": "ivf", "nlist": 40, "nprobe": 40}])
@pytest.mark.parametrize("k", [1, 9])
def test_widest_search_is_exact(options: dict[str, Any], k: int) -> None:
    assert_equal_to_reference(CLUSTERED, QUERIES[::6], k, **options)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [({"index": "hnsw", "ef_search": 1, "m": 4}, {"ef_search": 64}), ({"index": "ivf", "nprobe": 1}, {"nprobe": 8})],
)
def test_wider_search_finds_more(narrow: dict[str, Any], wide: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchcore_plugin.plugins.builtin._faiss_rows.EXTRA", 0)
    distance, row = NearestRows(CLUSTERED)(QUERIES)
    few, more = (search(CLUSTERED, **options)(QUERIES) for options in (narrow, {**narrow, **wide}))
    hits = [int((found == row).sum()) for _, found in (few, more)]
    assert hits[0] < hits[1]
    assert (few[0] >= distance).all()  # distances of all rows are exact


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_index_is_reproducible(index: str) -> None:
    first, second = (search(CLUSTERED, index=index, seed=3) for _ in range(2))
    assert np.array_equal(faiss.serialize_index(first.index), faiss.serialize_index(second.index))


def test_queries_with_too_few_rows_in_their_lists_are_exact(fallback: list[int]) -> None:
    bank = normal(64, 8)
    _, row = search(bank, index="ivf", nlist=64, nprobe=1)(QUERIES[:20, :8].contiguous(), 5)
    assert torch.equal(row, nearest_rows(QUERIES[:20, :8], bank, 5)[1])
    assert sum(fallback) > 20


def test_centroids_are_saved_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, patches = bank_of(CLUSTERED), pp.Patches(grid=QUERIES.view(4, 10, 15, 32))
    fitted = HOST.create("scorer", "faiss", index="ivf", nprobe=1, seed=1)
    fitted.fit(bank)
    state = fitted.state()
    assert [(name, tensor.shape) for name, tensor in state.items()] == [("centroids", (170, 32))]
    other = HOST.create("scorer", "faiss", index="ivf", nprobe=1, seed=2)
    other.fit(bank)
    assert not torch.equal(other.state()["centroids"], state["centroids"])
    monkeypatch.setattr(faiss, "Kmeans", None)
    other.restore(bank, state)
    assert torch.equal(other(patches).image, fitted(patches).image)
    assert torch.equal(other.state()["centroids"], state["centroids"])


@pytest.mark.parametrize("index", ["flat", "hnsw"])
def test_other_indexes_have_no_state(index: str) -> None:
    scorer = HOST.create("scorer", "faiss", index=index)
    scorer.fit(bank_of(normal(50, 4)))
    assert scorer.state() == {}


@pytest.mark.parametrize(
    ("state", "fact"),
    [
        ({}, "missing"),
        ({"centroids": torch.zeros(3, 5)}, "float32 [3, 5]"),
        ({"centroids": torch.zeros(51, 4)}, "float32 [51, 4]"),
        ({"centroids": torch.zeros(4, dtype=torch.int64)}, "int64 [4]"),
    ],
)
def test_invalid_state_is_refused(state: dict[str, Tensor], fact: str) -> None:
    scorer = HOST.create("scorer", "faiss", index="ivf")
    with pytest.raises(pp.ModelFileError) as caught:
        scorer.restore(bank_of(normal(50, 4)), state)
    assert fact in str(caught.value)


def test_messages_have_the_name_of_the_scorer() -> None:
    with pytest.raises(pp.TensorError, match="scorer 'faiss'"):
        HOST.create("scorer", "faiss")(pp.Patches(grid=normal(1, 2, 2, 4)))


def test_threads_and_random_state_stay_unchanged() -> None:
    def state() -> tuple[Any, ...]:
        return faiss.omp_get_max_threads(), torch.get_num_threads(), torch.get_rng_state().tolist()

    before = state()
    for index in ("flat", "hnsw", "ivf"):
        search(CLUSTERED, index=index)(QUERIES)
    assert state() == before


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    search(CLUSTERED, index="ivf")(QUERIES)
    assert capfd.readouterr() == ("", "")


def test_without_faiss_it_is_listed_but_not_created() -> None:
    code = """
import sys
sys.modules["faiss"] = None
import patchcore_plugin as pp
host = pp.Host(entry_points=False)
assert "faiss" in host.names("scorer")
assert host.configure("scorer", "faiss", {"index": "ivf"}).index == "ivf"
assert "torch" not in sys.modules
try:
    host.create("scorer", "faiss")
except pp.PluginError as error:
    print(error)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "pip install 'patchcore-plugin[faiss]'" in process.stdout
