"""The fast coreset against the textbook loop, on difficult inputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels.coreset import greedy_coreset
from patchcore_plugin.kernels.coreset.lazy import MAX_CELLS, MIN_PICKS, LazyGreedy
from patchcore_plugin.kernels.coreset.reference import greedy
from patchcore_plugin.kernels.coreset.task import Task
from tests.kernels.vectors import clustered, grid, normal

CASES: dict[str, tuple[Callable[[], Tensor], int]] = {
    "normal": (lambda: normal(3000, 16), 300),
    "more rows than are played at once": (lambda: clustered(9000, 24), 900),
    "every row": (lambda: normal(700, 8), 700),
    "offset": (lambda: normal(3000, 16) + 1000, 600),
    "copies by the thousand": (lambda: normal(50, 8).repeat(100, 1), 200),
    "all equal": (lambda: torch.ones(500, 4), 500),
    "one far outlier": (lambda: torch.cat([normal(3000, 16), torch.full((1, 16), 1e7)]), 600),
    "collinear": (lambda: torch.linspace(0, 1, 4001)[:, None] * normal(1, 8), 1000),
    "one dimension, all ties": (lambda: torch.arange(3000.0)[:, None], 3000),
    "grid": (lambda: grid(50), 1500),
    "ring": (lambda: torch.stack([torch.arange(2000.0).sin(), torch.arange(2000.0).cos()], dim=1), 800),
    "one row": (lambda: normal(1, 3), 1),
    "fewer than a block": (lambda: normal(17, 5), 9),
    "denormal": (lambda: normal(2000, 8) * 1e-42, 400),
    "huge": (lambda: normal(2000, 8) * 1e37, 400),
    "mixed scales": (lambda: normal(2000, 8) * torch.logspace(-20, 0, 2000)[:, None], 600),
    "float16": (lambda: normal(2000, 16).half(), 400),
    "bfloat16, many ties": (lambda: normal(4000, 4).bfloat16(), 4000),
    "float64": (lambda: normal(1500, 16).double() + 1e9, 1500),
    "not contiguous": (lambda: normal(16, 1000).T, 200),
}


@cache
def reference(name: str, start: int) -> tuple[Tensor, Tensor]:
    make, count = CASES[name]
    return greedy(make(), count, start)


AWKWARD = ("collinear", "copies by the thousand", "denormal", "mixed scales", "float16", "bfloat16, many ties")
"""Selected with every instruction set."""


def check(name: str, *, last: bool) -> None:
    make, count = CASES[name]
    points = make()
    start = len(points) - 1 if last else 0
    index, radii = greedy_coreset(points, count, start)
    expected, expected_radii = reference(name, start)
    assert torch.equal(index, expected)
    assert torch.equal(radii, expected_radii)


@pytest.mark.parametrize("name", CASES)
def test_selection_is_that_of_the_reference(kernels: str, name: str) -> None:
    check(name, last=False)


@pytest.mark.parametrize("name", ["normal", "copies by the thousand", "grid"])
def test_selection_from_the_last_row_is_that_of_the_reference(kernels: str, name: str) -> None:
    check(name, last=True)


def test_selection_is_that_of_the_reference_with_every_instruction_set(instruction_set: str) -> None:
    for name in AWKWARD:
        check(name, last=False)


@pytest.mark.parametrize("name", ["more rows than are played at once", "copies by the thousand", "grid"])
def test_selection_continues_an_earlier_one(kernels: str, name: str) -> None:
    points = CASES[name][0]()
    before, points = points[: len(points) // 10], points[len(points) // 10 :]
    within = torch.cdist(points.double(), before.double()).amin(dim=1)
    start = int(within.argmax())
    expected, expected_radii = greedy(points, 300, start, within)
    index, radii = greedy_coreset(points, 300, start, within=within)
    assert torch.equal(index, expected)
    assert torch.equal(radii, expected_radii)
    assert not torch.equal(index, greedy(points, 300, start)[0])
    everywhere = torch.cat([before, points[index]]).double()
    assert float(radii[-1]) == pytest.approx(
        float(torch.cdist(points.double(), everywhere).amin(dim=1).max()), abs=1e-4
    )


def test_picks_slightly_farther_than_an_earlier_selection_change_nothing(kernels: str) -> None:
    points = grid(60)
    # Most rows are nearer to the earlier selection than to their neighbours, by less than a float32 product can tell.
    within = torch.full((3600,), 1.0 - 1e-8, dtype=torch.float64)
    within[::7] = 3.0
    index, radii = greedy_coreset(points, 1500, within=within)
    expected, expected_radii = greedy(points, 1500, 0, within)
    assert torch.equal(index, expected)
    assert torch.equal(radii, expected_radii)


def test_distances_of_other_rows_are_refused() -> None:
    with pytest.raises(TensorError, match=r"within float64 \[5\]"):
        greedy_coreset(normal(5, 2), 1, within=torch.ones(4, dtype=torch.float64))


def test_reduced_precision_of_products_changes_nothing(torch_kernels: None) -> None:
    before = torch.get_float32_matmul_precision()
    points = clustered(4000, 64)
    expected, _ = greedy(points, 400, 5)
    try:
        torch.set_float32_matmul_precision("medium")
        index, _ = greedy_coreset(points, 400, 5)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(index, expected)


def test_autocast_changes_nothing(kernels: str) -> None:
    points = clustered(4000, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        index, _ = greedy_coreset(points, 400, 5)
    assert torch.equal(index, greedy(points, 400, 5)[0])


def test_input_is_not_changed(kernels: str) -> None:
    points = normal(500, 6)
    before = points.clone()
    greedy_coreset(points, 50)
    assert torch.equal(points, before)


def test_radius_stops_early(kernels: str) -> None:
    points = normal(2000, 4)
    _, every = greedy_coreset(points, 1000)
    index, radii = greedy_coreset(points, 1000, radius=0.5)
    assert radii[-1] <= 0.5 < radii[-2]
    assert torch.equal(radii, every[: len(radii)])
    assert len(index) == len(radii)


def test_progress_ends_with_all_picks(kernels: str) -> None:
    reports: list[tuple[int, int]] = []
    greedy_coreset(normal(2000, 4), 500, progress=lambda picks, total: reports.append((picks, total)))
    assert reports[-1] == (500, 500)
    assert [picks for picks, _ in reports] == sorted(picks for picks, _ in reports)


@pytest.mark.slow
def test_few_pairs_are_compared() -> None:
    compared = 0

    class Counting(LazyGreedy):
        def _compare(self, rows: Tensor, picks: Tensor) -> None:
            nonlocal compared
            compared += len(rows) * len(picks)
            super()._compare(rows, picks)

    points = clustered(60_000, 16)
    Counting(points, Task(6000)).run()
    assert compared < 0.3 * 60_000 * 6000


@pytest.mark.slow
def test_working_matrices_stay_small_if_one_cell_holds_nearly_all_rows() -> None:
    largest = 0

    class Recording(LazyGreedy):
        def _compare(self, rows: Tensor, picks: Tensor) -> None:
            nonlocal largest
            largest = max(largest, len(rows) * len(picks))
            assert largest <= self._tile
            super()._compare(rows, picks)

    # The seeds of the cells are every 468th row. Far from all others, one of them is nearest to nearly all rows.
    points = normal(30_000, 6)
    points[:: 30_000 // MAX_CELLS] *= 1000
    index, _ = Recording(points, Task(MIN_PICKS, 1)).run()
    assert torch.equal(index, greedy(points, MIN_PICKS, 1)[0])
    assert largest > 0


@pytest.mark.parametrize(
    ("points", "count", "start", "message"),
    [
        (torch.ones(3), 1, 0, "expected floating-point points [N, D]"),
        (torch.ones(3, 2, dtype=torch.int64), 1, 0, "expected floating-point points [N, D]"),
        (torch.ones(0, 2), 1, 0, "expected floating-point points [N, D]"),
        (torch.ones(3, 2), 0, 0, "count must be between 1 and 3, got 0"),
        (torch.ones(3, 2), 4, 0, "count must be between 1 and 3, got 4"),
        (torch.ones(3, 2), 1, 3, "start must be between 0 and 2, got 3"),
    ],
)
def test_wrong_arguments_are_refused(points: Tensor, count: int, start: int, message: str) -> None:
    with pytest.raises(TensorError, match=re.escape(message)):
        greedy_coreset(points, count, start)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(kernels: str, value: float) -> None:
    with pytest.raises(TensorError, match="finite"):
        greedy_coreset(torch.tensor([[1.0], [value]]), 1)


def test_a_reported_radius_is_a_valid_stop(kernels: str) -> None:
    points = normal(1500, 5) * 0.7
    index, radii = greedy_coreset(points, 400)
    for place in range(0, 400, 13):
        fewer, _ = greedy_coreset(points, 400, radius=float(radii[place]))
        assert torch.equal(fewer, index[: place + 1])
