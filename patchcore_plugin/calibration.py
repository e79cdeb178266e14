"""When a score is a defect, and which colours a map has: decided on good photos that the bank does not know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HELD_OUT = 0.1
"""Fraction of the good photos that is held out."""


def held_out(count: int, seed: int) -> NDArray[np.int64]:
    """Return which of `count` photos are held out: a tenth, at least one, ascending; none of a single photo."""
    if count < 2:
        return np.empty(0, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: math.ceil(HELD_OUT * count)])


def fit_order(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order in which a fit reads `count` photos: those that are not held out, then `held_out`.

    So what the calibration must not know is the end of one buffer, and nothing is copied.
    """
    late = held_out(count, seed)
    return np.setdiff1d(np.arange(count), late), late


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What scores and maps are compared with.

    Parameters
    ----------
    threshold
        Image scores above it are defects; None if nothing is known of good photos' scores.
    source
        Where it comes from, in words.
    map_scale
        Map values of the lowest and highest colour, the same for all photos.
    """

    threshold: float | None
    source: str
    map_scale: tuple[float, float]

    @classmethod
    def none(cls, why: str) -> Calibration:
        """Return that of a detector that has no held-out photos."""
        return cls(threshold=None, source=f"none: {why}", map_scale=(0.0, 1.0))

    @classmethod
    def of_good(cls, scores: Sequence[float], maps: Sequence[NDArray[np.float32]], total: int) -> Calibration:
        """Return that of held-out good photos, `total` photos in all: the highest score is the threshold."""
        source = f"highest score of {len(scores)} of {total} good photos, held out"
        scale = (0.0, 1.0)
        if maps:
            values = np.concatenate([each.ravel() for each in maps])
            usual, highest = float(np.median(values)), float(values.max())
            # Most of a good part has no colour and its most unusual spot a little; the rest is for defects.
            low = (usual + highest) / 2
            scale = (low, max(highest + 0.5 * abs(highest), low + 1e-6))
        return cls(threshold=max(scores), source=source, map_scale=scale)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like data; `from_dict` takes it back."""
        return {"threshold": self.threshold, "source": self.source, "map_scale": list(self.map_scale)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Return what `to_dict` described."""
        low, high = data["map_scale"]
        return cls(threshold=data["threshold"], source=data["source"], map_scale=(low, high))
