"""The nearest-row search compared with brute force, on the same inputs; results are checked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import pytest
from torch import Tensor

from benchmarks._features import bank, mostly_copies, one_far_outlier, patch_vectors
from benchmarks._vectors import patch_features
from benchmarks.conftest import RunCase
from benchmarks.gate import REFERENCE, WAYS, Case, Result, nearest_case, using

SYNTHETIC: dict[str, Callable[[int, int], Tensor]] = {
    "synthetic": patch_features,
    "mostly copies": mostly_copies,
    "one far outlier": one_far_outlier,
}
READABLE = 2e9
"""Largest number of differences that the reference computes, which takes seconds."""
Input = tuple[str, int, int, int]
"""A key of `SYNTHETIC` or a kind of images; queries, rows of the bank, and dimensions."""
QUICK: list[Input] = [(kind, 100, 2_000, 128) for kind in SYNTHETIC]
FULL: list[Input] = [
    *(("parts", 6_272, rows, dims) for dims in (128, 1024, 1536) for rows in (2_000, 16_000, 100_000)),
    *(("turned", 6_272, rows, 1024) for rows in (2_000, 16_000, 100_000)),
    *((kind, 6_272, 16_000, 1024) for kind in ("mostly copies", "one far outlier")),
]


def name(of: Input) -> str:
    kind, queries, rows, dims = of
    return f"{kind}, {queries:,} in {rows:,} x {dims}"


def readable(of: Input) -> bool:
    _, queries, rows, dims = of
    return queries * rows * dims <= READABLE


@lru_cache(maxsize=1)  # up to a gigabyte, and twice that when prepared
def case(of: Input) -> Case:
    kind, queries, rows, dims = of
    if kind not in SYNTHETIC:
        return nearest_case(patch_vectors(dims, kind=kind, test=True)[:queries], bank(rows, kind, dims))
    vectors = SYNTHETIC[kind](queries + rows, dims)
    return nearest_case(vectors[rows:], vectors[:rows])


@cache
def expected_result(of: Input) -> Result:
    with using("compiled"):
        return case(of).ready(REFERENCE if readable(of) else "compiled")()


@pytest.mark.parametrize("way", [REFERENCE, *WAYS])
@pytest.mark.parametrize("of", QUICK, ids=name)
def test_quick(run_case: RunCase, of: Input, way: str) -> None:
    assert case(of).same(run_case(case(of), way, name(of), 3), expected_result(of))


@pytest.mark.full
@pytest.mark.parametrize(
    ("of", "way"),
    [(of, way) for of in FULL for way in (REFERENCE, "torch", "compiled") if way != REFERENCE or readable(of)],
    ids=lambda value: value if isinstance(value, str) else name(value),
)
def test_full(run_case: RunCase, of: Input, way: str) -> None:
    assert case(of).same(run_case(case(of), way, name(of), 1 if way == REFERENCE else 3), expected_result(of))
