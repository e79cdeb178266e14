"""The benchmark of false alarms scores images that were not used in the fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import false_alarms
from benchmarks.false_alarms import CachingBackbone

pytestmark = pytest.mark.slow


def test_splits_fit_on_some_good_images_and_score_the_others(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = []

    class CountingBackbone(CachingBackbone):
        def _maps(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
            cached.append(len(self._cache))
            return super()._maps(tensor)

    monkeypatch.setattr(false_alarms, "CachingBackbone", CountingBackbone)
    splits = false_alarms.run_splits(dataset, 2)
    # A fit on ten of thirteen good images; the other three and three defective ones are scored.
    assert [(len(split.calibration.scores), len(split.good)) for split in splits] == [(10, 3), (10, 3)]
    assert len(cached) == 2 * (10 + 3 + 3)
    assert max(cached) <= 13 + 3
    assert splits[0].calibration.scores != splits[1].calibration.scores
    figures = false_alarms.figures(splits, 0.2)
    assert (figures["requested"], figures["possible"]) == (0.2, 0.1818)
    thresholds = [split.calibration.scores[-2] for split in splits]
    alarms, hits = [], []
    for split, threshold in zip(splits, thresholds, strict=True):
        alarms.append([image.score > threshold for image in split.good])
        hits.append([image.score > threshold for image in split.defective["blot"]])
    assert figures["observed"] == pytest.approx(np.mean(alarms), abs=1e-4)
    assert figures["detected"] == {"blot": pytest.approx(np.mean(hits), abs=1e-4)}
