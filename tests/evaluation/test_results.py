"""Results: counts at a threshold, and JSON files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchcore_plugin.evaluation.results import ImageResult, ThresholdCounts, write_json


def test_score_on_the_threshold_is_not_above_it() -> None:
    scores = [("good", 1.0), ("good", 2.0), ("good", 2.1), ("hole", 2.0), ("hole", 3.0)]
    images = [ImageResult(Path("x.png"), kind, kind != "good", score) for kind, score in scores]
    counts = ThresholdCounts.count(images, 2.0)
    assert (counts.good, counts.kinds) == ((1, 3), {"hole": (1, 2)})
    assert (counts.false_alarm_rate, counts.detection_rate) == (1 / 3, 0.5)


def test_rates_without_images_are_none() -> None:
    counts = ThresholdCounts.count([], 1.0)
    assert (counts.false_alarm_rate, counts.detection_rate) == (None, None)


def test_failed_write_leaves_the_old_json_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
