"""Predictions: scores compared with a calibration, and the nearest normal patch in pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.held_out_score import HeldOutScore
from patchcore_plugin.models.prediction import Prediction, nearest_patch
from patchcore_plugin.models.preprocessing import geometry
from patchcore_plugin.models.recipes import Preprocessing

CALIBRATION = Calibration.from_held_out([HeldOutScore(score, 0.0, 10 * score) for score in (1.0, 2.0, 3.0)], "drawn")
SIZE = Preprocessing(size=(32, 32))


@pytest.mark.parametrize(
    ("score", "is_anomalous", "p_value"), [(2.5, False, 0.5), (3.0, False, 0.5), (4.0, True, 0.25)]
)
def test_scores_above_the_threshold_are_anomalous(score: float, is_anomalous: bool, p_value: float) -> None:
    prediction = Prediction.compare(CALIBRATION, "a.png", (40, 48), score, None, nearest=None)
    assert (prediction.threshold, prediction.is_anomalous, prediction.p_value) == (3.0, is_anomalous, p_value)
    assert (prediction.path, prediction.size) == ("a.png", (40, 48))
    assert (prediction.anomaly_map, prediction.regions) == (None, ())


def test_without_threshold_there_is_no_verdict() -> None:
    prediction = Prediction.compare(Calibration.without_threshold("x"), None, (4, 4), 9.0, None, nearest=None)
    assert (prediction.threshold, prediction.is_anomalous, prediction.p_value) == (None, None, None)


def test_regions_are_above_the_threshold_of_maps() -> None:
    """They do not decide whether the image is anomalous."""
    full = np.zeros((6, 8), dtype=np.float32)
    full[2, 3:5] = 31
    prediction = Prediction.compare(CALIBRATION, None, (6, 8), 1.0, full, nearest=None)
    assert [(region.x, region.y, region.area) for region in prediction.regions] == [(3, 2, 2)]
    assert prediction.is_anomalous is False
    plain = Prediction.compare(Calibration.without_threshold("x"), None, (6, 8), 1.0, full, nearest=None)
    assert plain.regions == ()


def test_the_nearest_patch_of_the_highest_one() -> None:
    scores = np.zeros((8, 8), dtype=np.float32)
    scores[2, 5] = 7
    rows = np.zeros((8, 8), dtype=np.int64)
    rows[2, 5] = 1
    origin = np.array([[0, 0, 0], [1, 7, 0]])
    images: list[dict[str, Any]] = [
        {"path": "a.png", "height": 32, "width": 32},
        {"path": None, "height": 64, "width": 96},
    ]
    nearest = nearest_patch(geometry(SIZE, (80, 160)), scores, rows, origin, images, SIZE)
    assert (nearest.image, nearest.number, nearest.size, nearest.distance) == (None, 1, (64, 96), 7.0)
    assert (nearest.x, nearest.y, nearest.box) == (6, 60, (0, 56, 12, 8))
    assert (nearest.peak_x, nearest.peak_y, nearest.peak_box) == (110, 25, (100, 20, 20, 10))


def test_boxes_have_at_least_one_pixel() -> None:
    ones = np.ones((8, 8), dtype=np.float32)
    rows, origin = np.zeros((8, 8), dtype=np.int64), np.array([[0, 0, 0]])
    image = {"path": "a.png", "height": 4, "width": 4}
    nearest = nearest_patch(geometry(SIZE, (4, 4)), ones, rows, origin, [image], SIZE)
    assert nearest.box[2:] == nearest.peak_box[2:] == (1, 1)
