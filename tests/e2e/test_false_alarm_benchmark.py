"""The benchmark of false alarms: splits, images that were not fitted on, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import false_alarms
from benchmarks.false_alarms import CachingBackbone

pytestmark = pytest.mark.slow


def test_splits_and_figures(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = []

    class CountingBackbone(CachingBackbone):
        def _maps(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
            cached.append(len(self._cache))
            return super()._maps(tensor)

    monkeypatch.setattr(false_alarms, "CachingBackbone", CountingBackbone)
    splits = false_alarms.run_splits(dataset, 2)
    # Each split fits on ten of thirteen good images, and scores the other three and three defective ones.
    assert [(len(split.calibration.scores), len(split.good)) for split in splits] == [(10, 3), (10, 3)]
    assert len(cached) == 2 * (10 + 3 + 3)
    assert max(cached) <= 13 + 3
    assert splits[0].calibration.scores != splits[1].calibration.scores
    figures = false_alarms.figures(splits, 0.2)
    assert figures["possible"] == 0.1818
    thresholds = [split.calibration.scores[-2] for split in splits]
    alarms, hits = (
        [[image.score > threshold for image in images] for images, threshold in zip(groups, thresholds, strict=True)]
        for groups in ([split.good for split in splits], [split.defective["blot"] for split in splits])
    )
    assert figures["observed"] == pytest.approx(np.mean(alarms), abs=1e-4)
    assert figures["detected"] == {"blot": pytest.approx(np.mean(hits), abs=1e-4)}
