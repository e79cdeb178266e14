"""The fast nearest-row search against float64 brute force."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.kernels.nearest.int8 import Int8Rows
from patchcore_plugin.kernels.nearest.reference import nearest_rows
from tests.kernels.vectors import grid, normal

CASES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "normal": lambda: (normal(200, 32, seed=1), normal(3000, 32)),
    "several tiles": lambda: (normal(1100, 8, seed=1), normal(4500, 8)),
    "offset": lambda: (normal(100, 32, seed=1) + 1e4, normal(3000, 32) + 1e4),
    "far away": lambda: (normal(50, 32, seed=1) * 1e8, normal(2000, 32)),
    "some beyond float32": lambda: (normal(20, 8, seed=1) * torch.logspace(0, 30, 20)[:, None], normal(500, 8)),
    "rows of the bank": lambda: (normal(3000, 16)[:100], normal(3000, 16)),
    "copies by the hundred": lambda: (normal(30, 8).repeat(10, 1), normal(30, 8).repeat(200, 1)),
    "ties": lambda: (grid(20) + 0.5, grid(40)),
    "all equal": lambda: (torch.ones(5, 3), torch.ones(12, 3)),
    "small bank": lambda: (normal(10, 4, seed=1), normal(3, 4)),
    "one row": lambda: (normal(10, 4, seed=1), normal(1, 4)),
    "one dimension": lambda: (normal(50, 1, seed=1), normal(400, 1)),
    "float16": lambda: (normal(50, 16, seed=1).half(), normal(900, 16).half()),
    "float64": lambda: (normal(50, 16, seed=1).double(), normal(900, 16).double()),
    "more dimensions than a sketch": lambda: (normal(200, 300, seed=1), normal(2000, 300)),
    "many dimensions, offset": lambda: (normal(100, 300, seed=1) + 1e4, normal(2000, 300) + 1e4),
    "many dimensions, one far outlier": lambda: (
        normal(100, 131, seed=1),
        torch.cat([normal(2000, 131), torch.full((1, 131), 1e7)]),
    ),
    "many dimensions, huge": lambda: (
        normal(60, 131, seed=1) * 1e35,
        torch.cat([normal(900, 131) * 1e30, torch.full((1, 131), 1e37)]),
    ),
    "many dimensions, denormal": lambda: (normal(60, 131, seed=1) * 1e-42, normal(900, 131) * 1e-42),
    "many dimensions, few differ": lambda: (
        normal(60, 3, seed=1).repeat(1, 70),
        normal(900, 3).repeat(1, 70),
    ),
    "float64, beyond float32": lambda: (
        normal(40, 16, seed=1).double() * 1e60,
        normal(900, 16).double() * 1e60,
    ),
    "no query": lambda: (normal(0, 16), normal(20, 16)),
}
SEVERAL = (
    "several tiles",
    "copies by the hundred",
    "ties",
    "small bank",
    "float64",
    "many dimensions, huge",
    "no query",
)
"""Searched for nine rows, too."""
AWKWARD = ("ties", "one dimension", "float16", "many dimensions, huge", "many dimensions, few differ")
"""Searched with every instruction set."""


@cache
def reference(name: str, k: int) -> tuple[Tensor, Tensor]:
    return nearest_rows(*CASES[name](), k)


def check(name: str, k: int) -> None:
    queries, bank = CASES[name]()
    k = min(k, len(bank))
    distance, row = NearestRows(bank)(queries, k)
    if not len(queries):
        assert distance.shape == row.shape == (0, k)
        return
    expected_distance, expected_row = reference(name, k)
    assert torch.equal(row, expected_row)
    assert torch.equal(distance, expected_distance)


@pytest.mark.parametrize(
    ("name", "k"),
    [*((name, 1) for name in CASES), *((name, 9) for name in SEVERAL)],
)
def test_search_equals_brute_force(kernels: str, name: str, k: int) -> None:
    check(name, k)


def test_search_equals_brute_force_with_every_instruction_set(instruction_set: str) -> None:
    for name in AWKWARD:
        check(name, 1)
    check("ties", 9)


@pytest.mark.parametrize("name", ["normal", "ties", "float16", "many dimensions, offset"])
def test_float32_products_serve_processors_without_vnni(
    torch_kernels: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    check(name, 1)


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this processor has no VNNI")
def test_8_bit_products_give_up_if_codes_are_too_coarse(torch_kernels: None) -> None:
    bank = torch.cat([normal(3000, 32) * 1e-4, normal(300, 32)])
    queries = normal(20, 32, seed=1) * 1e-4
    assert (Int8Rows(bank)(queries)[1] < 0).any()
    distance, row = NearestRows(bank)(queries)
    expected_distance, expected_row = nearest_rows(queries, bank)
    assert torch.equal(row, expected_row)
    assert torch.equal(distance, expected_distance)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.slow
def test_reduced_precision_of_products_changes_nothing(torch_kernels: None, when: str) -> None:
    before = torch.get_float32_matmul_precision()
    queries, bank = normal(60, 256, seed=1).double(), normal(5000, 256).double()  # which float32 products serve
    search = NearestRows(bank)
    try:
        torch.set_float32_matmul_precision("medium")
        if when == "before":
            search = NearestRows(bank)
        _, row = search(queries)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(row, nearest_rows(queries, bank)[1])


def test_autocast_changes_nothing(kernels: str) -> None:
    queries, bank = normal(60, 256, seed=1), normal(5000, 256)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, row = NearestRows(bank)(queries)
    assert torch.equal(row, nearest_rows(queries, bank)[1])


BACKEND_SETTING = """
import torch
from patchcore_plugin.kernels.nearest import NearestRows

if hasattr(torch.backends, "fp32_precision"):
    torch.backends.fp32_precision = "tf32"
generator = torch.Generator().manual_seed(0)
bank = torch.randn(500, 16, generator=generator)
assert NearestRows(bank)(bank)[1].flatten().tolist() == list(range(500))
"""


@pytest.mark.slow
def test_precision_set_through_torch_backends_changes_nothing() -> None:
    # In another process: torch allows only one way of setting the precision per process.
    ended = subprocess.run([sys.executable, "-c", BACKEND_SETTING], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr


def test_values_that_are_not_finite_are_refused(kernels: str) -> None:
    with pytest.raises(TensorError, match="finite"):
        NearestRows(normal(50, 4))(torch.full((3, 4), torch.nan))
    with pytest.raises(TensorError, match="finite"):
        NearestRows(torch.full((3, 4), torch.nan))
