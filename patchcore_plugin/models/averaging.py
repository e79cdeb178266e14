"""Scores and maps of several methods: made comparable, and averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from patchcore_plugin.errors import TensorError

from .fitting.learners import Judged
from .preprocessing import Geometry, on_image, upsampled
from .recipes.recipe import Map


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What a member's scores and maps are divided by.

    The median held-out good image gets a score of 1, and the highest patch score of its map is 1. A ratio, because
    scores are distances, which start at 0; and because it needs a single held-out image, where a deviation needs many:
    of the usual two or three it may be next to nothing, and its member would drown all others.

    Parameters
    ----------
    score, map
        The divisors.
    """

    score: float = 1.0
    map: float = 1.0

    @classmethod
    def of_good(cls, judged: Sequence[Judged], owner: str) -> Unit:
        """Return that of held-out good images; 1 where there are none, or where they got nothing but zeros.

        Raises
        ------
        TensorError
            If the images got scores below 0; `owner` is who gave them.
        """
        scores = [found.score for found in judged]
        peaks = [float(found.map.max()) for found in judged if found.map is not None]
        divisors = [median(values) if values else 1.0 for values in (scores, peaks)]
        if min(divisors) < 0:
            raise TensorError(
                f"{owner}: gives good images scores below 0 ({min(divisors):.3g}); an ensemble averages scores that "
                "start at 0, such as distances: take another scorer, or leave this member out"
            )
        score, peak = (divisor or 1.0 for divisor in divisors)
        return cls(score=score, map=peak)


def averaged_map(grids: Sequence[NDArray[np.float32]], shape: Geometry, options: Map) -> NDArray[np.float32] | None:
    """Return the mean of patch scores [h, w], whose grids may differ, as a map of the image, float32 [H, W].

    The mean is taken at the size of the network's input, so that all is blurred and resized once: both are linear.
    None if there are no grids.
    """
    if not grids:
        return None
    full = np.stack([upsampled(grid, shape, options) for grid in grids]).mean(axis=0)
    return on_image(np.asarray(full, dtype=np.float32), shape, options)
