"""What only the compiled kernels can get wrong: their bounds, their panels, threads, and being found at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from torch import Tensor

from patchcore_plugin.kernels import compiled
from patchcore_plugin.kernels.coreset import greedy_coreset
from patchcore_plugin.kernels.coreset.compiled import greedy as compiled_greedy
from patchcore_plugin.kernels.coreset.reference import greedy
from patchcore_plugin.kernels.native import native
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.kernels.nearest.compiled import CompiledRows
from patchcore_plugin.kernels.nearest.reference import nearest_rows
from patchcore_plugin.kernels.quantised import Grid
from patchcore_plugin.kernels.screening import squared_distances

pytestmark = pytest.mark.skipif(
    native() is None and shutil.which("cc") is None, reason="neither patchcore-native nor a C compiler is here"
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_is_installed_where_there_is_a_compiler() -> None:
    assert native() is not None


def test_a_variable_leaves_it_aside() -> None:
    code = "from patchcore_plugin.kernels.native import description, native; print(native(), description())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PATCHCORE_COMPILED": "0"}, capture_output=True, text=True
    )
    assert done.stdout == "None torch\n"


@pytest.mark.parametrize("dims", [1, 2, 3, 5, 31, 64, 100, 1024, 1537])
def test_distances_are_those_of_torch(kernels: str, dims: int) -> None:
    if kernels == "torch":
        pytest.skip("compared with itself")
    points = normal(50, dims) * 10 ** normal(50, 1, seed=1)
    out = torch.empty(50, dtype=torch.float64)
    compiled.library().patchcore_distances(points.data_ptr(), points[7].data_ptr(), 50, dims, out.data_ptr())
    assert torch.equal(out, squared_distances(points, points[7]))


@pytest.mark.parametrize("dims", [1, 7, 16, 130])
def test_codes_are_those_of_torch(kernels: str, dims: int) -> None:
    if kernels == "torch":
        pytest.skip("compared with itself")
    points = normal(300, dims) * 10 ** normal(300, 1, seed=1)
    grid = Grid(points, compiled.library().patchcore_levels())
    wanted = grid.encode(points)
    with compiled.workers() as each:
        codes = compiled.encode(points, grid, each)
    # Half a code more or less is as good: 1 / step is rounded.
    assert int((codes.codes[:, :dims].int() - wanted.codes.int()).abs().max()) <= 1
    torch.testing.assert_close(codes.errors, wanted.errors, rtol=1e-4, atol=1e-4)
    assert torch.equal(codes.norms, codes.codes.int().square().sum(dim=1, dtype=torch.int32))


def test_bounds_hold(kernels: str) -> None:
    points = normal(200, 40) * 10 ** normal(200, 1, seed=1)
    grid = Grid(points)
    codes = grid.encode(points)
    apart = torch.cdist(codes.codes.double(), codes.codes.double())
    true = squared_distances(points[:, None], points[None]).sqrt() / grid.step
    errors = codes.errors.double()
    assert (apart - errors[:, None] - errors <= true).all()
    assert (apart + errors[:, None] + errors >= true).all()


def test_sketches_never_lengthen() -> None:
    bank = normal(500, 24) @ normal(24, 300, seed=1) + 100
    rows = CompiledRows(bank)
    with compiled.workers() as each:
        sketch, wrong = rows.sketch(bank, each)
    between = torch.cdist(sketch.double(), sketch.double())
    true = squared_distances(bank[:, None], bank[None]).sqrt()
    assert (between - wrong[:, None] - wrong <= true).all()
    assert float((between / true)[~torch.eye(500, dtype=torch.bool)].median()) > 0.9  # and are of use


def test_gives_up_where_codes_cannot_tell_and_torch_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = torch.cat([normal(3000, 32) * 1e-4, normal(300, 32)])
    queries = normal(20, 32, seed=1) * 1e-4
    _, row = CompiledRows(bank)(queries, 1)
    assert (row < 0).any()
    distance, row = NearestRows(bank)(queries)
    wanted_distance, wanted_row = nearest_rows(queries, bank)
    assert torch.equal(row, wanted_row)
    assert torch.equal(distance, wanted_distance)


def test_a_selection_too_fine_for_codes_is_given_up_and_torch_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchcore_plugin.kernels.coreset.compiled.BUDGET", 1.0)
    points = torch.cat([normal(6000, 6) * 1e-4, normal(300, 6)])
    seen: list[int] = []
    assert compiled_greedy(points, 1500, 0) is None
    index, radii = greedy_coreset(points, 1500, 0, progress=lambda done, _: seen.append(done))
    wanted, wanted_radii = greedy(points, 1500, 0)
    assert torch.equal(index, wanted)
    assert torch.equal(radii, wanted_radii)
    assert seen[-1] == 1500


def test_leaves_no_thread_behind_and_changes_no_setting() -> None:
    before, threads = torch.get_num_threads(), threading.active_count()
    NearestRows(normal(5000, 64))(normal(500, 64, seed=1))
    assert (torch.get_num_threads(), threading.active_count()) == (before, threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    bank, queries = normal(5000, 64), normal(700, 64, seed=1)
    wanted = NearestRows(bank)(queries)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = NearestRows(bank)(queries)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[1], wanted[1])
