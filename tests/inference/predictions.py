"""Predictions of fake models."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from patchcore_plugin.models.prediction import Nearest, Prediction

NEAREST = Nearest(
    image="train/good/000.png", x=3, y=4, peak_x=5, peak_y=6, distance=0.5, number=0, size=(24, 32), box=(0, 0, 8, 8),
    peak_box=(0, 0, 8, 8),
)  # fmt: skip


@dataclass(frozen=True)
class FakePrediction(Prediction):
    """A prediction of which only path, score and map need to be given."""

    path: str | None
    score: float
    anomaly_map: npt.NDArray[np.float32] | None
    size: tuple[int, int] = field(default=(24, 32), kw_only=True)
    threshold: float | None = 0.5
    is_anomalous: bool | None = True
    nearest: Nearest | None = NEAREST
    p_value: float | None = 0.25
