"""What only the compiled kernels can get wrong: bounds, panels and threads."""

from __future__ import annotations

import threading

import pytest
import torch

from patchcore_plugin.kernels import _native_calls
from patchcore_plugin.kernels._native import native
from patchcore_plugin.kernels.coreset import greedy_coreset
from patchcore_plugin.kernels.coreset.native import greedy as native_greedy
from patchcore_plugin.kernels.coreset.reference import greedy
from patchcore_plugin.kernels.coreset.task import Task
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.kernels.nearest.native import NativeRows
from patchcore_plugin.kernels.nearest.reference import nearest_rows
from patchcore_plugin.kernels.quantisation import Grid
from patchcore_plugin.kernels.screening import squared_distances
from tests.kernels.vectors import normal

pytestmark = pytest.mark.skipif(native() is None, reason="patchcore-native is not installed")


def test_distances_are_those_of_torch(instruction_set: str) -> None:
    for dims in (1, 2, 3, 5, 31, 64, 100, 1024, 1537):
        points = normal(50, dims) * 10 ** normal(50, 1, seed=1)
        out = torch.empty(50, dtype=torch.float64)
        _native_calls.library().patchcore_distances(points.data_ptr(), points[7].data_ptr(), 50, dims, out.data_ptr())
        assert torch.equal(out, squared_distances(points, points[7])), dims


@pytest.mark.parametrize("dims", [1, 7, 130])
def test_codes_are_those_of_torch(instruction_set: str, dims: int) -> None:
    points = normal(300, dims) * 10 ** normal(300, 1, seed=1)
    grid = Grid(points, _native_calls.library().patchcore_levels())
    expected = grid.encode(points)
    with _native_calls.workers() as for_each_part:
        codes = _native_calls.encode(points, grid, for_each_part)
    # Half a code more or less is as good: 1 / step is rounded.
    assert int((codes.codes[:, :dims].int() - expected.codes.int()).abs().max()) <= 1
    torch.testing.assert_close(codes.errors, expected.errors, rtol=1e-4, atol=1e-4)
    assert torch.equal(codes.norms, codes.codes.int().square().sum(dim=1, dtype=torch.int32))


def test_sketches_never_lengthen_distances() -> None:
    bank = normal(500, 24) @ normal(24, 300, seed=1) + 100
    rows = NativeRows(bank)
    with _native_calls.workers() as for_each_part:
        sketch, error = rows.sketch(bank, for_each_part)
    between = torch.cdist(sketch.double(), sketch.double())
    true = squared_distances(bank[:, None], bank[None]).sqrt()
    assert (between - error[:, None] - error <= true).all()
    assert float((between / true)[~torch.eye(500, dtype=torch.bool)].median()) > 0.9  # and are useful


def test_a_search_with_too_coarse_codes_gives_up_and_torch_takes_over() -> None:
    bank = torch.cat([normal(3000, 32) * 1e-4, normal(300, 32)])
    queries = normal(20, 32, seed=1) * 1e-4
    _, row = NativeRows(bank)(queries, 1)
    assert (row < 0).any()
    distance, row = NearestRows(bank)(queries)
    expected_distance, expected_row = nearest_rows(queries, bank)
    assert torch.equal(row, expected_row)
    assert torch.equal(distance, expected_distance)


def test_a_selection_with_too_coarse_codes_gives_up_and_torch_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchcore_plugin.kernels.coreset.native.BUDGET", 1.0)
    points = torch.cat([normal(6000, 6) * 1e-4, normal(300, 6)])
    reports: list[int] = []
    assert native_greedy(points, Task(1500)) is None
    index, radii = greedy_coreset(points, 1500, 0, progress=lambda picks, _: reports.append(picks))
    expected, expected_radii = greedy(points, 1500, 0)
    assert torch.equal(index, expected)
    assert torch.equal(radii, expected_radii)
    assert reports[-1] == 1500


def test_threads_end_and_settings_stay() -> None:
    before, threads = torch.get_num_threads(), threading.active_count()
    NearestRows(normal(5000, 64))(normal(500, 64, seed=1))
    assert (torch.get_num_threads(), threading.active_count()) == (before, threads)


def test_the_number_of_threads_changes_nothing() -> None:
    bank, queries = normal(5000, 64), normal(700, 64, seed=1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(NearestRows(bank)(queries))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
