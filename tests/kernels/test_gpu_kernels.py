"""The GPU kernels against their references: on the GPU, or through Triton's interpreter if there is none.

The interpreter must be chosen before Triton is imported, so these tests then run in another process.
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
from patchcore_plugin.kernels.coreset.task import Task
from patchcore_plugin.kernels.nearest.float32 import Float32Rows
from patchcore_plugin.kernels.nearest.reference import nearest_rows
from patchcore_plugin.kernels.screening import squared_distances
from tests.kernels.vectors import grid, normal

TRITON = importlib.util.find_spec("triton") is not None
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

needs_triton = pytest.mark.skipif(not TRITON, reason="Triton is not installed")
needs_device = pytest.mark.skipif(
    not TRITON or (DEVICE == "cpu" and not INTERPRETED), reason="there is no GPU; see test_through_the_interpreter"
)


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the other tests run in this process")
def test_through_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " passed" in ended.stdout, ended.stdout


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the search; with few large programs if interpreted, because each operation costs the same."""
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
    "one far outlier": lambda: (normal(20, 16, seed=1), torch.cat([normal(100, 16), torch.full((1, 16), 1e7)])),
    "one row": lambda: (normal(10, 4, seed=1), normal(1, 4)),
    "one dimension": lambda: (normal(50, 1, seed=1), normal(300, 1)),
    "several steps": lambda: (normal(20, 300, seed=1), normal(280, 300)),
    "float16": lambda: (normal(30, 17, seed=1).half(), normal(300, 17).half()),
    "float64": lambda: (normal(30, 16, seed=1).double() + 1e9, normal(300, 16).double() + 1e9),
    "two types": lambda: (normal(30, 16, seed=1).double(), normal(300, 16).half()),
    "not contiguous": lambda: (normal(12, 30, seed=1).T, normal(12, 300).T),
    "no query": lambda: (normal(0, 16), normal(20, 16)),
}


@needs_device
@pytest.mark.parametrize("name", NEAREST)
def test_nearest_rows_are_those_of_the_reference(name: str, gpu: Any) -> None:
    queries, bank = NEAREST[name]()
    distance, row = gpu.GpuRows(bank.to(DEVICE))(queries.to(DEVICE))
    if not len(queries):
        assert distance.shape == row.shape == (0, 1)
        return
    # Roots can differ by a bit between devices. The squares, which decide, do not: see the test of mutual distances.
    assert torch.equal(distance, nearest_rows(queries.to(DEVICE), bank.to(DEVICE))[0])
    assert torch.equal(row.cpu(), nearest_rows(queries, bank)[1])


@needs_device
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


@needs_device
def test_more_marks_than_fit_in_memory(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "MARK_BYTES", 1)
    queries, bank = normal(300, 8, seed=1), normal(90, 8)
    _, row = gpu.GpuRows(bank.to(DEVICE))(queries.to(DEVICE))
    assert torch.equal(row.cpu(), nearest_rows(queries, bank)[1])


@needs_device
def test_smaller_tiles_for_less_shared_memory(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "TILES", gpu.SMALL_TILES)
    queries, bank = normal(50, 8, seed=1), normal(300, 8)
    _, row = gpu.GpuRows(bank.to(DEVICE))(queries.to(DEVICE))
    assert torch.equal(row.cpu(), nearest_rows(queries, bank)[1])


@needs_device
def test_codes_are_those_of_the_grid(gpu: Any) -> None:
    points = normal(70, 37).to(DEVICE)
    coded = gpu.Search(points).encode(points)
    expected = gpu.Grid(points).encode(points)
    assert torch.equal(coded.codes[:, :37], expected.codes)
    assert not coded.codes[:, 37:].any()
    assert torch.equal(coded.norms, expected.norms)
    torch.testing.assert_close(coded.errors, expected.errors, rtol=1e-6, atol=0)


@needs_device
@pytest.mark.parametrize("dims", [1, 3, 16, 37, 129])
def test_mutual_distances_have_the_bits_of_the_reference(dims: int, gpu: Any) -> None:
    points = normal(40, dims)
    expected = squared_distances(points[:, None], points[None])
    points = points.to(DEVICE)
    search = gpu.Search(points)
    limit = torch.full((40,), torch.inf, dtype=torch.float64, device=DEVICE)
    limit[:3] = -1.0  # columns of which nothing is needed
    result = search.distances_below(search.encode(points), limit)
    assert torch.equal(result[:, 3:].cpu(), expected[:, 3:])
    assert result[:, :3].isinf().all()


@needs_device
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(wrong: float, gpu: Any) -> None:
    bank = normal(50, 4).to(DEVICE)
    with pytest.raises(TensorError, match="finite"):
        gpu.GpuRows(bank)(torch.full((3, 4), wrong, device=DEVICE))
    bank[1, 2] = wrong
    with pytest.raises(TensorError, match="finite"):
        gpu.GpuRows(bank)
    with pytest.raises(TensorError, match="finite"):
        select(bank, 3)


CORESET: dict[str, tuple[Callable[[], Tensor], int]] = {
    "normal": (lambda: normal(400, 16), 50),
    "every row": (lambda: normal(70, 8), 70),
    "offset": (lambda: normal(200, 16) + 1e6, 30),
    "copies": (lambda: normal(12, 8).repeat(7, 1), 30),
    "one far outlier": (lambda: torch.cat([normal(90, 16), torch.full((1, 16), 1e7)]), 20),
    "one dimension, all ties": (lambda: torch.arange(60.0)[:, None], 60),
    "two rows": (lambda: normal(2, 3), 2),
    "denormal": (lambda: normal(90, 8) * 1e-42, 20),
    "mixed scales": (lambda: normal(100, 8) * torch.logspace(-20, 0, 100)[:, None], 30),
    "several steps": (lambda: normal(90, 200), 15),
    "float16": (lambda: normal(120, 17).half(), 25),
    "bfloat16, many ties": (lambda: normal(70, 2).bfloat16(), 70),
    "float64": (lambda: normal(90, 16).double() + 1e9, 30),
    "not contiguous": (lambda: normal(16, 90).T, 20),
}


def select(points: Tensor, count: int, start: int = 0, *, players: int = 24, **options: Any) -> tuple[Tensor, Tensor]:
    from patchcore_plugin.kernels.coreset import gpu

    index, radii = gpu.greedy(points.to(DEVICE), Task(count, start, **options), players)
    return index.cpu(), radii


@needs_device
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", CORESET)
def test_the_coreset_is_that_of_the_reference(name: str) -> None:
    make, count = CORESET[name]
    points = make()
    index, radii = select(points, count, len(points) // 2)
    expected, expected_radii = greedy(points, count, len(points) // 2)
    assert torch.equal(index, expected)
    assert torch.equal(radii, expected_radii)


@needs_device
@pytest.mark.usefixtures("gpu")
def test_the_coreset_continues_an_earlier_one() -> None:
    points, before = normal(120, 8), normal(15, 8, seed=1)
    earlier = squared_distances(points[:, None], before[None]).amin(dim=1)
    start = int(earlier.argmax())
    index, radii = select(points, 40, start, earlier=earlier.to(DEVICE))
    expected, expected_radii = greedy(points, 40, start, earlier.sqrt())
    assert torch.equal(index, expected)
    torch.testing.assert_close(radii, expected_radii)


@needs_device
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("radius", [0.0, 0.9, 100.0])
def test_radius_stops_early(radius: float) -> None:
    points = torch.cat([normal(60, 3), normal(10, 3)])
    index, radii = select(points, 70, radius=radius)
    expected, expected_radii = LazyGreedy(points, Task(70, radius=radius)).run()
    assert torch.equal(index, expected)
    assert torch.equal(radii, expected_radii)


@needs_device
@pytest.mark.usefixtures("gpu")
def test_a_reported_radius_is_a_valid_stop() -> None:
    points = normal(60, 3)
    _, radii = select(points, 30)
    for at in (5, 29):
        index, _ = select(points, 30, radius=float(radii[at]))
        assert len(index) == at + 1


@needs_device
@pytest.mark.usefixtures("gpu")
def test_rounds_are_few_and_reported() -> None:
    reports: list[tuple[int, int]] = []
    select(normal(200, 4), 60, players=64, progress=lambda picks, count: reports.append((picks, count)))
    assert reports[-1] == (60, 60)
    assert len(reports) < 8


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU")
@pytest.mark.parametrize("name", ["normal", "copies", "one dimension, all ties", "float16"])
def test_torch_does_the_same_on_the_gpu(name: str) -> None:
    make, count = CORESET[name]
    points = make()
    index, radii = LazyGreedy(points.to(DEVICE), Task(count)).run()
    expected, expected_radii = greedy(points, count, 0)
    assert torch.equal(index.cpu(), expected)
    assert torch.equal(radii, expected_radii)
    distance, row = Float32Rows(points.to(DEVICE))((points + 0.25).to(DEVICE))
    assert torch.equal(distance, nearest_rows((points + 0.25).to(DEVICE), points.to(DEVICE))[0])
    assert torch.equal(row.cpu(), nearest_rows(points + 0.25, points)[1])


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu" or not TRITON, reason="there is no GPU, or Triton is not installed")
@pytest.mark.parametrize("dims", [128, 1000])
def test_larger_inputs_than_the_interpreter_allows(dims: int, gpu: Any) -> None:
    points = normal(64, dims)[torch.arange(9000) % 64] * 3 + normal(9000, dims, seed=1)
    from patchcore_plugin.kernels.coreset import gpu as coreset_gpu

    index, radii = coreset_gpu.greedy(points.to(DEVICE), Task(900))
    index = index.cpu()
    expected, expected_radii = LazyGreedy(points, Task(900)).run()
    assert torch.equal(index, expected)
    assert torch.equal(radii, expected_radii)
    queries = points[:500] + 0.1 * normal(500, dims, seed=2)
    _, row = gpu.GpuRows(points.to(DEVICE))(queries.to(DEVICE))
    assert torch.equal(row.cpu(), Float32Rows(points)(queries)[1])
