"""The fast coreset against the textbook loop, on inputs made to break it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels.coreset import greedy_coreset
from patchcore_plugin.kernels.coreset.lazy import MAX_CELLS, MIN_PICKS, LazyGreedy
from patchcore_plugin.kernels.coreset.reference import greedy


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clustered(count: int, dims: int) -> Tensor:
    centres = normal(40, dims, seed=1) * 5
    which = torch.randint(40, (count,), generator=torch.Generator().manual_seed(2))
    return centres[which] + normal(count, dims, seed=3) * 0.3


CASES: dict[str, tuple[Callable[[], Tensor], int]] = {
    "normal": (lambda: normal(3000, 16), 300),
    "more rows than are played at once": (lambda: clustered(9000, 24), 900),
    "every row": (lambda: normal(700, 8), 700),
    "offset": (lambda: normal(3000, 16) + 1000, 600),
    "huge offset": (lambda: normal(2000, 16) + 1e6, 400),
    "copies by the thousand": (lambda: normal(50, 8).repeat(100, 1), 200),
    "all equal": (lambda: torch.ones(500, 4), 500),
    "all zero": (lambda: torch.zeros(300, 4), 10),
    "one far outlier": (lambda: torch.cat([normal(3000, 16), torch.full((1, 16), 1e7)]), 600),
    "collinear": (lambda: torch.linspace(0, 1, 4001)[:, None] * normal(1, 8), 1000),
    "one dimension, all ties": (lambda: torch.arange(3000.0)[:, None], 3000),
    "grid": (lambda: torch.cartesian_prod(torch.arange(50.0), torch.arange(50.0)), 1500),
    "ring": (lambda: torch.stack([torch.arange(2000.0).sin(), torch.arange(2000.0).cos()], dim=1), 800),
    "one row": (lambda: normal(1, 3), 1),
    "two rows": (lambda: normal(2, 3), 2),
    "fewer than a block": (lambda: normal(17, 5), 9),
    "denormal": (lambda: normal(2000, 8) * 1e-42, 400),
    "tiny": (lambda: normal(2000, 8) * 1e-30, 400),
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


@pytest.mark.parametrize("last", [False, True], ids=["from the first", "from the last"])
@pytest.mark.parametrize("name", CASES)
def test_selects_what_the_reference_selects(kernels: str, name: str, last: bool) -> None:
    make, count = CASES[name]
    points = make()
    start = len(points) - 1 if last else 0
    index, radii = greedy_coreset(points, count, start)
    wanted, wanted_radii = reference(name, start)
    assert torch.equal(index, wanted)
    assert torch.equal(radii, wanted_radii)


@pytest.mark.parametrize("name", ["normal", "more rows than are played at once", "copies by the thousand", "grid"])
def test_goes_on_from_what_was_selected_elsewhere(kernels: str, name: str) -> None:
    points = CASES[name][0]()
    before, points = points[: len(points) // 10], points[len(points) // 10 :]
    within = torch.cdist(points.double(), before.double()).amin(dim=1)
    start = int(within.argmax())
    wanted, wanted_radii = greedy(points, 300, start, within)
    index, radii = greedy_coreset(points, 300, start, within=within)
    assert torch.equal(index, wanted)
    assert torch.equal(radii, wanted_radii)
    assert not torch.equal(index, greedy(points, 300, start)[0])
    everywhere = torch.cat([before, points[index]]).double()
    assert float(radii[-1]) == pytest.approx(
        float(torch.cdist(points.double(), everywhere).amin(dim=1).max()), abs=1e-4
    )


def test_refuses_distances_of_other_rows() -> None:
    with pytest.raises(TensorError) as caught:
        greedy_coreset(normal(5, 2), 1, within=torch.ones(4, dtype=torch.float64))
    assert str(caught.value) == "greedy_coreset: expected within float64 [5], got torch.float64 [4]"


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_reduced_precision_of_products_changes_nothing(torch_kernels: None, precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    points = clustered(4000, 64)
    wanted, _ = greedy(points, 400, 5)
    try:
        torch.set_float32_matmul_precision(precision)
        index, _ = greedy_coreset(points, 400, 5)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(index, wanted)


def test_autocast_changes_nothing(kernels: str) -> None:
    points = clustered(4000, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        index, _ = greedy_coreset(points, 400, 5)
    assert torch.equal(index, greedy(points, 400, 5)[0])


def test_input_is_left_alone(kernels: str) -> None:
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
    seen: list[tuple[int, int]] = []
    greedy_coreset(normal(2000, 4), 500, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (500, 500)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_does_a_small_part_of_the_work() -> None:
    compared = 0

    class Counting(LazyGreedy):
        def _meet(self, rows: Tensor, picks: Tensor) -> None:
            nonlocal compared
            compared += len(rows) * len(picks)
            super()._meet(rows, picks)

    points = clustered(60_000, 16)
    Counting(points, 6000, 0).run()
    assert compared < 0.3 * 60_000 * 6000


def test_working_matrices_stay_small_where_one_cell_holds_nearly_all() -> None:
    largest = 0

    class Watching(LazyGreedy):
        def _meet(self, rows: Tensor, picks: Tensor) -> None:
            nonlocal largest
            largest = max(largest, len(rows) * len(picks))
            assert largest <= self._tile
            super()._meet(rows, picks)

    # The seeds of the cells are every 468th row; far from all others, nearly all rows are nearest to one of them.
    points = normal(30_000, 6)
    points[:: 30_000 // MAX_CELLS] *= 1000
    index, _ = Watching(points, MIN_PICKS, 1).run()
    assert torch.equal(index, greedy(points, MIN_PICKS, 1)[0])
    assert largest > 0


@pytest.mark.parametrize(
    ("points", "count", "start", "message"),
    [
        (torch.ones(3), 1, 0, "greedy_coreset: expected floating-point points [N, D], N and D at least 1, "),
        (torch.ones(3, 2, dtype=torch.int64), 1, 0, "greedy_coreset: expected floating-point points [N, D]"),
        (torch.ones(0, 2), 1, 0, "greedy_coreset: expected floating-point points [N, D]"),
        (torch.ones(3, 2), 0, 0, "greedy_coreset: count must be between 1 and 3, got 0"),
        (torch.ones(3, 2), 4, 0, "greedy_coreset: count must be between 1 and 3, got 4"),
        (torch.ones(3, 2), 1, 3, "greedy_coreset: start must be between 0 and 2, got 3"),
        (torch.tensor([[1.0], [torch.nan]]), 1, 0, "distances need finite values below 1e150"),
        (torch.tensor([[1.0], [torch.inf]]), 1, 0, "distances need finite values below 1e150"),
    ],
)
def test_refuses(kernels: str, points: Tensor, count: int, start: int, message: str) -> None:
    with pytest.raises(TensorError) as caught:
        greedy_coreset(points, count, start)
    assert str(caught.value).startswith(message)


def test_a_reported_radius_stops_where_it_was_reported(kernels: str) -> None:
    points = normal(1500, 5) * 0.7
    index, radii = greedy_coreset(points, 400)
    for place in range(0, 400, 7):
        found, _ = greedy_coreset(points, 400, radius=float(radii[place]))
        assert torch.equal(found, index[: place + 1])
