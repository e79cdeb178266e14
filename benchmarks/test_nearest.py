"""The searches for the nearest row beside brute force, on the same inputs; what is timed is checked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import pytest
from torch import Tensor

from benchmarks._features import bank, mostly_copies, one_far_outlier, patch_vectors
from benchmarks._vectors import patch_features
from benchmarks.conftest import Timed
from benchmarks.gate import REFERENCE, WAYS, Case, Result, nearest_case, using

MADE_UP: dict[str, Callable[[int, int], Tensor]] = {
    "made up": patch_features,
    "mostly copies": mostly_copies,
    "one far outlier": one_far_outlier,
}
READABLE = 2e9
"""Differences that the reference computes in seconds; it takes part up to there."""
Input = tuple[str, int, int, int]
"""Of `MADE_UP`, or a kind of images; queries, rows of the bank, and dimensions."""
QUICK: list[Input] = [(kind, 100, 2_000, 128) for kind in MADE_UP]
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


@lru_cache(maxsize=1)  # up to a gigabyte, and twice that made ready
def case(of: Input) -> Case:
    kind, queries, rows, dims = of
    if kind not in MADE_UP:
        return nearest_case(patch_vectors(dims, kind=kind, test=True)[:queries], bank(rows, kind, dims))
    vectors = MADE_UP[kind](queries + rows, dims)
    return nearest_case(vectors[rows:], vectors[:rows])


@cache
def wanted(of: Input) -> Result:
    with using("compiled"):
        return case(of).ready(REFERENCE if readable(of) else "compiled")()


@pytest.mark.parametrize("way", [REFERENCE, *WAYS])
@pytest.mark.parametrize("of", QUICK, ids=name)
def test_quick(timed: Timed, of: Input, way: str) -> None:
    assert case(of).same(timed(case(of), way, name(of), 3), wanted(of))


@pytest.mark.full
@pytest.mark.parametrize(
    ("of", "way"),
    [(of, way) for of in FULL for way in (REFERENCE, "torch", "compiled") if way != REFERENCE or readable(of)],
    ids=lambda value: value if isinstance(value, str) else name(value),
)
def test_full(timed: Timed, of: Input, way: str) -> None:
    assert case(of).same(timed(case(of), way, name(of), 1 if way == REFERENCE else 3), wanted(of))
