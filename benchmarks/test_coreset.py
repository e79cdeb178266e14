"""The coreset kernels compared with the textbook loop, on the same inputs; results are checked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import pytest
from torch import Tensor

from benchmarks._features import mostly_copies, one_far_outlier, patch_vectors
from benchmarks._vectors import patch_features
from benchmarks.conftest import RunCase
from benchmarks.gate import REFERENCE, WAYS, Case, Result, coreset_case, using

MAKERS: dict[str, Callable[[int, int], Tensor]] = {
    "parts": lambda n, dims: patch_vectors(dims)[:n].clone(),
    "turned": lambda n, dims: patch_vectors(dims, kind="turned")[:n].clone(),
    "synthetic": patch_features,
    "mostly copies": mostly_copies,
    "one far outlier": one_far_outlier,
}
READABLE = 1e9
"""Largest number of differences that the reference computes, which takes seconds."""
Input = tuple[str, int, int, int]
"""A key of `MAKERS`, N, D, and the percentage to select."""
QUICK: list[Input] = [(kind, 3_000, 64, 10) for kind in ("synthetic", "mostly copies", "one far outlier")]
FULL: list[Input] = [
    *(("parts", n, dims, share) for dims in (128, 1024, 1536) for n in (20_000, 80_000, 160_000) for share in (1, 10)),
    *(("turned", 80_000, dims, 10) for dims in (128, 1024)),
    *((kind, 80_000, 128, 10) for kind in ("mostly copies", "one far outlier")),
]


def name(of: Input) -> str:
    kind, n, dims, share = of
    return f"{kind}, {n:,} x {dims}, {share} %"


def readable(of: Input) -> bool:
    _, n, dims, share = of
    return n * dims * n * share / 100 <= READABLE


@lru_cache(maxsize=1)  # up to a gigabyte
def case(of: Input) -> Case:
    kind, n, dims, share = of
    return coreset_case(MAKERS[kind](n, dims), n * share // 100)


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
    assert case(of).same(run_case(case(of), way, name(of), 3 if of[1] <= 20_000 else 1), expected_result(of))
