"""The scorer `faiss`: equal to `knn` with the flat index, and what the approximate ones promise."""

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
from patchcore_plugin.plugins.builtin import faiss_knn
from tests import real_images

faiss = pytest.importorskip("faiss")
HOST = pp.Host(entry_points=False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bank_of(vectors: Tensor) -> pp.MemoryBank:
    return pp.MemoryBank(vectors=vectors, origin=torch.zeros(len(vectors), 3, dtype=torch.int64))


def search(bank: Tensor, **options: Any) -> Any:
    from patchcore_plugin.plugins.builtin._faiss_rows import FaissRows

    return FaissRows(bank, faiss_knn.FaissConfig(**options))


@pytest.fixture
def fallback(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries were left to the exact search, call by call."""
    counts: list[int] = []

    class Counting(NearestRows):
        def __call__(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
            counts.append(len(queries))
            return super().__call__(queries, k)

    monkeypatch.setattr("patchcore_plugin.plugins.builtin._faiss_rows.NearestRows", Counting)
    return counts


def equal_to_reference(bank: Tensor, queries: Tensor, k: int, **options: Any) -> None:
    wanted = nearest_rows(queries, bank, k)
    got = search(bank, **options)(queries, k)
    assert torch.equal(got[1], wanted[1])
    assert torch.equal(got[0], wanted[0])


@pytest.mark.parametrize("k", [1, 9])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-4, 300.0), (1e5, -3e7)])
def test_flat_finds_the_rows_of_float64(k: int, scale: float, offset: float, fallback: list[int]) -> None:
    bank, queries = (normal(n, 24, seed=n) * scale + offset for n in (700, 1100))
    equal_to_reference(bank.double(), queries.double(), k)
    assert not fallback  # faiss's own candidates were proven, which is the point of having it


@pytest.mark.parametrize("k", [1, 5])
def test_rows_that_float32_cannot_tell_apart_are_searched_exactly(k: int, fallback: list[int]) -> None:
    centres = normal(12, 16).double()
    bank = (centres[:, None] + normal(12, 60, 16, seed=1).double() * 1e-9).reshape(-1, 16)
    queries = torch.cat([centres + normal(12, 16, seed=2).double() * 1e-9, centres])
    equal_to_reference(bank, queries, k)
    wrong = faiss.knn(queries.float().numpy(), bank.float().numpy(), k)[1]
    assert (wrong != nearest_rows(queries, bank, k)[1].numpy()).any()
    assert sum(fallback) > 12


def test_ties_go_to_the_lowest_row() -> None:
    bank = normal(40, 8).repeat(30, 1)
    equal_to_reference(bank, normal(50, 8, seed=1), 1)
    equal_to_reference(bank, bank[::7], 40)
    rows = normal(100, 8)  # opposite ones tie at the origin, though their float32 copies about another centre do not
    equal_to_reference(torch.cat([rows, -rows, normal(50, 8, seed=1) + 9]), torch.zeros(1, 8), 30)


@pytest.mark.parametrize("rows", [1, 2, 5, 9, 12])
def test_a_small_bank_is_all_candidates(rows: int, fallback: list[int]) -> None:
    bank = normal(rows, 6)
    equal_to_reference(bank, normal(20, 6, seed=1), rows)
    assert rows > 9 or not fallback


@pytest.mark.parametrize("index", ["flat", "hnsw", "ivf"])
def test_queries_far_outside_and_not_finite(index: str) -> None:
    bank, queries = normal(300, 6).double(), normal(20, 6, seed=1).double()
    for distance in (1e9, 1e30, 1e60):
        equal_to_reference(bank, queries * distance, 1, index=index)
    with pytest.raises(pp.TensorError, match="distances need finite values"):
        search(bank, index=index)(torch.full((3, 6), torch.nan))


@pytest.mark.parametrize("options", [{}, {"reweight": False}, {"reweight": False, "squared": True}, {"neighbours": 3}])
@pytest.mark.parametrize("rows", [1, 5, 600])
def test_scores_are_those_of_knn(options: dict[str, Any], rows: int) -> None:
    bank, patches = bank_of(normal(rows, 12)), pp.Patches(grid=normal(3, 9, 7, 12, seed=1))
    found = []
    for name in ("knn", "faiss"):
        scorer = HOST.create("scorer", name, **options)
        scorer.fit(bank)
        found.append(scorer(patches))
    knn, got = found
    for wanted, tensor in ((knn.image, got.image), (knn.map, got.map), (knn.nearest, got.nearest)):
        assert wanted is not None
        assert tensor is not None
        assert torch.equal(tensor, wanted)


@real_images.needed
def test_a_detector_with_faiss_judges_images_as_with_knn(tmp_path: Path) -> None:
    good, judged = (
        sorted((real_images.DATA / "hazelnut_reduced" / part).rglob("*.png"))[::8] for part in ("train/good", "test")
    )
    options = {"backbone": "efficientnet-lite0", "sampler": {"name": "random", "ratio": 0.2}}
    knn, flat = (
        pp.Detector.from_recipe("patchcore", scorer=name, **options).fit(good[:8])  # type: ignore[arg-type]
        for name in ("knn", "faiss")
    )
    flat.save(tmp_path / "m.safetensors")
    flat = pp.Detector.load(tmp_path / "m.safetensors")
    for wanted, got in zip(knn.predict(judged[:4]), flat.predict(judged[:4]), strict=True):
        assert got.score == wanted.score
        assert got.nearest == wanted.nearest
        assert np.array_equal(got.anomaly_map, wanted.anomaly_map)  # type: ignore[arg-type]


CLUSTERED = normal(60, 32).repeat_interleave(30, dim=0) * 3 + normal(1800, 32, seed=1)
QUERIES = normal(60, 32).repeat_interleave(10, dim=0) * 3 + normal(600, 32, seed=2)


@pytest.mark.parametrize("options", [{"index": "hnsw", "ef_search": 1800}, {"index": "ivf", "nlist": 40, "nprobe": 40}])
def test_with_the_widest_search_graph_and_lists_miss_nothing(options: dict[str, Any]) -> None:
    found, exact, queries = search(CLUSTERED, **options), NearestRows(CLUSTERED), QUERIES[::6]
    for k in (1, 9):
        got, wanted = found(queries, k), exact(queries, k)
        assert torch.equal(got[1], wanted[1])
        assert torch.equal(got[0], wanted[0])


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [({"index": "hnsw", "ef_search": 1, "m": 4}, {"ef_search": 64}), ({"index": "ivf", "nprobe": 1}, {"nprobe": 8})],
)
def test_a_wider_search_finds_more(
    narrow: dict[str, Any], wide: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchcore_plugin.plugins.builtin._faiss_rows.EXTRA", 0)
    distance, row = NearestRows(CLUSTERED)(QUERIES)
    few, more = (search(CLUSTERED, **options)(QUERIES) for options in (narrow, {**narrow, **wide}))
    hits = [int((found == row).sum()) for _, found in (few, more)]
    assert hits[0] < hits[1]
    assert (few[0] >= distance).all()  # whatever row is found, its distance is the true one


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_the_index_is_the_same_each_time(index: str) -> None:
    first, second = (search(CLUSTERED, index=index, seed=3) for _ in range(2))
    assert np.array_equal(faiss.serialize_index(first._index), faiss.serialize_index(second._index))


def test_queries_to_which_the_lists_bring_too_few_rows_are_searched_exactly(fallback: list[int]) -> None:
    bank = normal(64, 8)
    got = search(bank, index="ivf", nlist=64, nprobe=1)(QUERIES[:20, :8].contiguous(), 5)
    assert torch.equal(got[1], nearest_rows(QUERIES[:20, :8], bank, 5)[1])
    assert sum(fallback) > 20


def test_lists_are_saved_and_not_learned_again(monkeypatch: pytest.MonkeyPatch) -> None:
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
    ("state", "text"),
    [
        ({}, "scorer 'faiss': the centroids of the index are missing; fit again"),
        (
            {"centroids": torch.zeros(3, 5)},
            "scorer 'faiss': expected centroids float32 [1 to 50, 4], got float32 [3, 5]; fit again",
        ),
        (
            {"centroids": torch.zeros(51, 4)},
            "scorer 'faiss': expected centroids float32 [1 to 50, 4], got float32 [51, 4]; fit again",
        ),
        (
            {"centroids": torch.zeros(4, dtype=torch.int64)},
            "scorer 'faiss': expected centroids float32 [1 to 50, 4], got int64 [4]; fit again",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: dict[str, Tensor], text: str) -> None:
    scorer = HOST.create("scorer", "faiss", index="ivf")
    with pytest.raises(pp.ModelFileError) as caught:
        scorer.restore(bank_of(normal(50, 4)), state)
    assert str(caught.value) == text


def test_misuse_is_told_with_the_scorers_name() -> None:
    with pytest.raises(pp.TensorError, match="scorer 'faiss': call fit or restore before scoring"):
        HOST.create("scorer", "faiss")(pp.Patches(grid=normal(1, 2, 2, 4)))


def test_threads_and_random_state_are_the_callers() -> None:
    def state() -> tuple[Any, ...]:
        return faiss.omp_get_max_threads(), torch.get_num_threads(), torch.get_rng_state().tolist()

    before = state()
    for index in ("flat", "hnsw", "ivf"):
        search(CLUSTERED, index=index)(QUERIES)
    assert state() == before


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    search(CLUSTERED, index="ivf")(QUERIES)
    assert capfd.readouterr() == ("", "")


def test_without_faiss_it_is_listed_and_says_what_to_install() -> None:
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "scorer 'faiss' needs faiss: pip install 'patchcore-plugin[faiss]'\n"
