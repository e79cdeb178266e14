"""Scores of several members on one scale, so that they can be averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from patchcore_plugin.errors import TensorError

from .scores import ImageScores


@dataclass(frozen=True, kw_only=True)
class ScoreScale:
    """The divisors of a member's scores and maps.

    They bring the median held-out good image to a score of 1, and the median of the highest patch scores to 1. A ratio
    is used because scores are distances, which start at 0, and because it needs a single held-out image. A standard
    deviation of the usual two or three held-out images may be close to 0, and its member would dominate all others.

    Parameters
    ----------
    score, map
        The divisors.
    """

    score: float = 1.0
    map: float = 1.0

    @classmethod
    def from_held_out(cls, scores: Sequence[ImageScores], owner: str) -> ScoreScale:
        """Return the scale of held-out good images; 1 where there are none, or all scores are 0.

        Parameters
        ----------
        scores
            Scores of the member for images that it was not fitted on.
        owner
            The member's name, for messages.

        Raises
        ------
        TensorError
            If a median is negative.
        """
        peaks = [float(score.map.max()) for score in scores if score.map is not None]
        divisors = [median(values) if values else 1.0 for values in ([score.score for score in scores], peaks)]
        if min(divisors) < 0:
            raise TensorError(
                f"{owner}: scores of good images are below 0 ({min(divisors):.3g}); an ensemble averages scores that "
                "start at 0, such as distances: choose another scorer, or leave this member out"
            )
        score, peak = (divisor or 1.0 for divisor in divisors)
        return cls(score=score, map=peak)

    def apply(self, scores: ImageScores) -> ImageScores:
        """Return the scores of an image on the common scale."""
        if self == ScoreScale():
            return scores
        grid = None if scores.map is None else scores.map / np.float32(self.map)
        return ImageScores(scores.score / self.score, grid, scores.nearest)
