"""Selection of the training images that are scored by a model that was not fitted on them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

HELD_OUT = 0.1
"""Fraction of the images that is held out where patches are not kept."""
FOLDS, FEWER_FOLDS, MANY = 5, 3, 100
"""Number of folds for cross-fitting. From `MANY` images on there are fewer: a bank of two thirds of them is nearly as
good, and takes less than half of the time."""


def held_out_indices(count: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of a tenth of the images, at least one, ascending, int64; none of a single image.

    Parameters
    ----------
    count
        Number of images.
    seed
        Seed of the random choice.
    """
    if count < 2:
        return np.empty(0, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: math.ceil(HELD_OUT * count)])


def folds(count: int, seed: int) -> list[NDArray[np.int64]]:
    """Return the folds of images, each ascending and of nearly equal size; none of a single image.

    Parameters
    ----------
    count
        Number of images.
    seed
        Seed of the random order.
    """
    if count < 2:
        return []
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(part) for part in np.array_split(order, FEWER_FOLDS if count >= MANY else min(FOLDS, count))]
