"""What a fake model finds in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from patchcore_plugin.models.regions import Region


@dataclass(frozen=True)
class FakeNearest:
    image: str | None = "train/good/000.png"
    x: int = 3
    y: int = 4
    peak_x: int = 5
    peak_y: int = 6
    distance: float = 0.5
    number: int = 0
    size: tuple[int, int] = (24, 32)
    box: tuple[int, int, int, int] = (0, 0, 8, 8)
    peak_box: tuple[int, int, int, int] = (0, 0, 8, 8)


@dataclass(frozen=True)
class FakePrediction:
    path: str | None
    score: float
    anomaly_map: npt.NDArray[np.float32] | None
    threshold: float | None = 0.5
    is_anomalous: bool | None = True
    nearest: FakeNearest | None = field(default_factory=FakeNearest)
    p_value: float | None = 0.25
    regions: Sequence[Region] = ()
    size: tuple[int, int] = (24, 32)
