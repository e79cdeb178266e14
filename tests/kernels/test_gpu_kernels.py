"""The GPU kernels against their references: on the GPU, or through Triton's interpreter where there is none.

The interpreter must be chosen before Triton is imported, so there these tests run in a process of their own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels.coreset.lazy import LazyGreedy
from patchcore_plugin.kernels.coreset.reference import greedy
from patchcore_plugin.kernels.nearest.reference import nearest_rows
from patchcore_plugin.kernels.nearest.screened import ScreenedRows
from patchcore_plugin.kernels.screening import squared_distances

TRITON = importlib.util.find_spec("triton") is not None
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

needs_triton = pytest.mark.skipif(not TRITON, reason="Triton is not installed")
here = pytest.mark.skipif(
    not TRITON or (DEVICE == "cpu" and not INTERPRETED), reason="there is no GPU; see test_through_the_interpreter"
)


@needs_triton
@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the tests below run here")
def test_through_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout, done.stdout


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grid(side: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(float(side)), torch.arange(float(side)))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the search; interpreted, with few large programs, because each operation costs as much."""
    from patchcore_plugin.kernels.nearest import gpu

    if DEVICE == "cpu":
        monkeypatch.setattr(gpu, "TERMS", 1 << 16)
        monkeypatch.setattr(gpu, "MEASURED", 512)
    return gpu


NEAREST: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "normal": lambda: (normal(150, 32, seed=1), normal(700, 32)),
    "offset": lambda: (normal(60, 20, seed=1) + 1e6, normal(300, 20) + 1e6),
    "far away": lambda: (normal(30, 32, seed=1) * 1e8, normal(100, 32)),
    "some beyond float32": lambda: (normal(20, 8, seed=1) * torch.logspace(0, 30, 20)[:, None], normal(60, 8)),
    "rows of the bank": lambda: (normal(400, 16)[:100], normal(400, 16)),
    "copies": lambda: (normal(30, 8).repeat(5, 1), normal(30, 8).repeat(20, 1)),
    "ties": lambda: (grid(8) + 0.5, grid(18)),
    "all equal": lambda: (torch.ones(5, 3), torch.ones(12, 3)),
    "collinear": lambda: (torch.rand(40, 1) * normal(1, 9), torch.linspace(0, 1, 300)[:, None] * normal(1, 9)),
    "one far outlier": lambda: (normal(20, 16, seed=1), torch.cat([normal(100, 16), torch.full((1, 16), 1e7)])),
    "one row": lambda: (normal(10, 4, seed=1), normal(1, 4)),
    "one dimension": lambda: (normal(50, 1, seed=1), normal(300, 1)),
    "several steps": lambda: (normal(20, 300, seed=1), normal(280, 300)),
    "float16": lambda: (normal(30, 17, seed=1).half(), normal(300, 17).half()),
    "bfloat16": lambda: (normal(30, 4, seed=1).bfloat16(), normal(300, 4).bfloat16()),
    "float64": lambda: (normal(30, 16, seed=1).double() + 1e9, normal(300, 16).double() + 1e9),
    "two types": lambda: (normal(30, 16, seed=1).double(), normal(300, 16).half()),
    "not contiguous": lambda: (normal(12, 30, seed=1).T, normal(12, 300).T),
    "no query": lambda: (normal(0, 16), normal(20, 16)),
}


@here
@pytest.mark.parametrize("name", NEAREST)
def test_nearest_rows_are_those_of_the_reference(name: str, gpu: Any) -> None:
    queries, bank = NEAREST[name]()
    distance, row = gpu.GpuRows(bank.to(DEVICE))(queries.to(DEVICE))
    if not len(queries):
        assert distance.shape == row.shape == (0, 1)
        return
    # Roots can differ by a bit from device to device; what decides does not, see the test of mutual distances.
    assert torch.equal(distance, nearest_rows(queries.to(DEVICE), bank.to(DEVICE))[0])
    assert torch.equal(row.cpu(), nearest_rows(queries, bank)[1])


@here
def test_few_rows_are_measured(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    marked = 0
    mark = gpu.Search._mark

    def counting(*args: Any) -> Tensor:
        nonlocal marked
        marks: Tensor = mark(*args)
        marked += sum(bin(word & 0xFFFFFFFF).count("1") for word in marks.flatten().tolist())
        return marks

    monkeypatch.setattr(gpu.Search, "_mark", counting)
    queries, bank = normal(128, 64, seed=1) * torch.logspace(0, -2, 64), normal(700, 64) * torch.logspace(0, -2, 64)
    gpu.GpuRows(bank.to(DEVICE))(queries.to(DEVICE))
    assert 128 <= marked < 5 * 128


@here
def test_more_marks_than_are_kept_at_a_time(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "MARK_BYTES", 1)
    queries, bank = normal(300, 8, seed=1), normal(90, 8)
    _, row = gpu.GpuRows(bank.to(DEVICE))(queries.to(DEVICE))
    assert torch.equal(row.cpu(), nearest_rows(queries, bank)[1])


@here
def test_smaller_tiles_for_less_shared_memory(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "TILES", gpu.SMALL_TILES)
    queries, bank = normal(50, 8, seed=1), normal(300, 8)
    _, row = gpu.GpuRows(bank.to(DEVICE))(queries.to(DEVICE))
    assert torch.equal(row.cpu(), nearest_rows(queries, bank)[1])


@here
def test_codes_are_those_of_the_grid(gpu: Any) -> None:
    points = normal(70, 37).to(DEVICE)
    coded = gpu.Search(points).encode(points)
    wanted = gpu.Grid(points).encode(points)
    assert torch.equal(coded.codes[:, :37], wanted.codes)
    assert not coded.codes[:, 37:].any()
    assert torch.equal(coded.norms, wanted.norms)
    torch.testing.assert_close(coded.errors, wanted.errors, rtol=1e-6, atol=0)


@here
@pytest.mark.parametrize("dims", [1, 2, 3, 5, 16, 37, 100, 129])
def test_mutual_distances_have_the_bits_of_the_reference(dims: int, gpu: Any) -> None:
    points = normal(40, dims)
    wanted = squared_distances(points[:, None], points[None])
    points = points.to(DEVICE)
    search = gpu.Search(points)
    limit = torch.full((40,), torch.inf, dtype=torch.float64, device=DEVICE)
    limit[:3] = -1.0  # columns that are not wanted
    got = search.distances_below(search.encode(points), limit)
    assert torch.equal(got[:, 3:].cpu(), wanted[:, 3:])
    assert got[:, :3].isinf().all()


@here
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_refuses_what_is_not_finite(wrong: float, gpu: Any) -> None:
    bank = normal(50, 4).to(DEVICE)
    with pytest.raises(TensorError, match="distances need finite values below 1e150"):
        gpu.GpuRows(bank)(torch.full((3, 4), wrong, device=DEVICE))
    bank[1, 2] = wrong
    with pytest.raises(TensorError, match="distances need finite values"):
        gpu.GpuRows(bank)
    with pytest.raises(TensorError, match="distances need finite values"):
        select(bank, 3)


CORESET: dict[str, tuple[Callable[[], Tensor], int]] = {
    "normal": (lambda: normal(400, 16), 50),
    "every row": (lambda: normal(70, 8), 70),
    "offset": (lambda: normal(200, 16) + 1e6, 30),
    "copies": (lambda: normal(12, 8).repeat(7, 1), 30),
    "all equal": (lambda: torch.ones(40, 4), 35),
    "one far outlier": (lambda: torch.cat([normal(90, 16), torch.full((1, 16), 1e7)]), 20),
    "collinear": (lambda: torch.linspace(0, 1, 200)[:, None] * normal(1, 8), 40),
    "one dimension, all ties": (lambda: torch.arange(60.0)[:, None], 60),
    "grid": (lambda: grid(9), 60),
    "one row": (lambda: normal(1, 3), 1),
    "two rows": (lambda: normal(2, 3), 2),
    "denormal": (lambda: normal(90, 8) * 1e-42, 20),
    "huge": (lambda: normal(90, 8) * 1e37, 20),
    "mixed scales": (lambda: normal(100, 8) * torch.logspace(-20, 0, 100)[:, None], 30),
    "several steps": (lambda: normal(90, 200), 15),
    "float16": (lambda: normal(120, 17).half(), 25),
    "bfloat16, many ties": (lambda: normal(70, 2).bfloat16(), 70),
    "float64": (lambda: normal(90, 16).double() + 1e9, 30),
    "not contiguous": (lambda: normal(16, 90).T, 20),
}


def select(points: Tensor, count: int, start: int = 0, **options: Any) -> tuple[Tensor, Tensor]:
    from patchcore_plugin.kernels.coreset import gpu

    index, radii = gpu.greedy(points.to(DEVICE), count, start, **options)
    return index.cpu(), radii


@here
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", CORESET)
def test_the_coreset_is_that_of_the_reference(name: str) -> None:
    make, count = CORESET[name]
    points = make()
    index, radii = select(points, count, len(points) // 2, players=24)
    wanted, wanted_radii = greedy(points, count, len(points) // 2)
    assert torch.equal(index, wanted)
    assert torch.equal(radii, wanted_radii)


@here
@pytest.mark.usefixtures("gpu")
def test_the_coreset_goes_on_from_what_was_selected_elsewhere() -> None:
    points, before = normal(120, 8), normal(15, 8, seed=1)
    known = squared_distances(points[:, None], before[None]).amin(dim=1)
    start = int(known.argmax())
    index, radii = select(points, 40, start, known=known.to(DEVICE), players=24)
    wanted, wanted_radii = greedy(points, 40, start, known.sqrt())
    assert torch.equal(index, wanted)
    torch.testing.assert_close(radii, wanted_radii)


@here
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("radius", [0.0, 0.9, 100.0])
def test_radius_stops_early(radius: float) -> None:
    points = torch.cat([normal(60, 3), normal(10, 3)])
    index, radii = select(points, 70, radius=radius, players=24)
    wanted, wanted_radii = LazyGreedy(points, 70, 0, radius=radius).run()
    assert torch.equal(index, wanted)
    assert torch.equal(radii, wanted_radii)


@here
@pytest.mark.usefixtures("gpu")
def test_a_reported_radius_stops_where_it_was_reported() -> None:
    points = normal(60, 3)
    _, radii = select(points, 30, players=24)
    for at in (5, 29):
        index, _ = select(points, 30, radius=float(radii[at]), players=24)
        assert len(index) == at + 1


@here
@pytest.mark.usefixtures("gpu")
def test_rounds_are_few_and_told() -> None:
    seen: list[tuple[int, int]] = []
    select(normal(200, 4), 60, players=64, progress=lambda done, count: seen.append((done, count)))
    assert seen[-1] == (60, 60)
    assert len(seen) < 8


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU")
@pytest.mark.parametrize("name", ["normal", "copies", "grid", "float16"])
def test_torch_does_the_same_on_the_gpu(name: str) -> None:
    make, count = CORESET[name]
    points = make()
    index, radii = LazyGreedy(points.to(DEVICE), count, 0).run()
    wanted, wanted_radii = greedy(points, count, 0)
    assert torch.equal(index.cpu(), wanted)
    assert torch.equal(radii, wanted_radii)
    distance, row = ScreenedRows(points.to(DEVICE))((points + 0.25).to(DEVICE))
    assert torch.equal(distance, nearest_rows((points + 0.25).to(DEVICE), points.to(DEVICE))[0])
    assert torch.equal(row.cpu(), nearest_rows(points + 0.25, points)[1])


@pytest.mark.skipif(DEVICE == "cpu" or not TRITON, reason="there is no GPU, or Triton is not installed")
@pytest.mark.parametrize("dims", [128, 1000])
def test_larger_than_an_interpreter_can(dims: int, gpu: Any) -> None:
    points = normal(64, dims)[torch.arange(9000) % 64] * 3 + normal(9000, dims, seed=1)
    index, radii = select(points, 900)
    wanted, wanted_radii = LazyGreedy(points, 900, 0).run()
    assert torch.equal(index, wanted)
    assert torch.equal(radii, wanted_radii)
    queries = points[:500] + 0.1 * normal(500, dims, seed=2)
    _, row = gpu.GpuRows(points.to(DEVICE))(queries.to(DEVICE))
    assert torch.equal(row.cpu(), ScreenedRows(points)(queries)[1])
