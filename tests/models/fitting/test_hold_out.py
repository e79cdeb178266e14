"""Which images are held out, and the folds of cross-fitting."""

from __future__ import annotations

from collections import Counter

import pytest

from patchcore_plugin.models.fitting.hold_out import folds, held_out_indices


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 0), (2, 1), (10, 1), (11, 2), (50, 5)])
def test_a_tenth_is_held_out(count: int, expected: int) -> None:
    indices = held_out_indices(count, seed=3).tolist()
    assert len(indices) == len(set(indices)) == expected
    assert indices == sorted(held_out_indices(count, seed=3).tolist())
    assert all(0 <= index < count for index in indices)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, []), (1, []), (2, [1, 1]), (5, [1] * 5), (12, [3, 3, 2, 2, 2]), (99, [20] * 4 + [19]), (100, [34, 33, 33])],
)
def test_each_image_is_in_one_fold(count: int, sizes: list[int]) -> None:
    parts = folds(count, seed=3)
    assert [len(part) for part in parts] == sizes
    assert Counter(index for part in parts for index in part.tolist()) == Counter(range(count if sizes else 0))
    assert all(part.tolist() == sorted(part.tolist()) for part in parts)


def test_the_seed_chooses_them() -> None:
    assert held_out_indices(100, 0).tolist() != held_out_indices(100, 1).tolist()
    assert [part.tolist() for part in folds(100, 0)] != [part.tolist() for part in folds(100, 1)]
