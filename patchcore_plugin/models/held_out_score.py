"""The score of a held-out image, from which thresholds and colour scales are calculated."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class HeldOutScore(NamedTuple):
    """The score of a good image by a model that was not fitted on it.

    Parameters
    ----------
    score
        Image score.
    usual, highest
        Median and maximum of its anomaly map; None without one.
    """

    score: float
    usual: float | None = None
    highest: float | None = None

    @classmethod
    def summarise(cls, score: float, anomaly_map: NDArray[np.float32] | None) -> HeldOutScore:
        """Return the held-out score of an image.

        Parameters
        ----------
        score
            Image score.
        anomaly_map
            The map, [H, W]; None for methods without maps.
        """
        if anomaly_map is None:
            return cls(score)
        return cls(score, float(np.median(anomaly_map)), float(anomaly_map.max()))
