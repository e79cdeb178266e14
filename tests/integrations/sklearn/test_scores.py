"""Scores, signs and thresholds: methods of scikit-learn and attributes of PyOD."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.exceptions import NotFittedError

import patchcore_plugin as pp
from patchcore_plugin.models.fitting.hold_out import folds
from patchcore_plugin.models.preprocessing import prepare
from patchcore_plugin.models.recipes import Preprocessing
from tests.conftest import draw
from tests.integrations.sklearn.pixels import BAD, EXTRA, GOOD, pixel_detector

pytestmark = pytest.mark.slow


def test_scores_are_those_of_the_detector_with_the_signs_of_scikit_learn() -> None:
    estimator = pixel_detector(sampler={"ratio": 0.05}, random_state=3).fit(GOOD)
    changes: dict[str, Any] = {"backbone": "pixels", "sampler": {"ratio": 0.05}, "preprocessing": {"size": (24, 32)}}
    reference = pp.Detector.from_recipe("patchcore", seed=3, device="cpu", host=pp.Host(extra=EXTRA), **changes)
    reference.fit(list(GOOD))
    scores = [prediction.score for prediction in reference.predict(list(BAD))]
    assert estimator.score_samples(BAD).tolist() == [-score for score in scores]
    assert (estimator.threshold_, estimator.offset_) == (reference.threshold, -(reference.threshold or 0))
    assert estimator.decision_function(BAD).tolist() == (estimator.score_samples(BAD) + estimator.threshold_).tolist()
    assert estimator.predict(np.concatenate([BAD[:2], GOOD[:1]])).tolist() == [-1, -1, 1]
    assert torch.equal(estimator.detector_.bank.vectors, reference.bank.vectors)


@pytest.mark.parametrize("count", [2, 4, 5, 12])
def test_training_images_are_scored_by_others(count: int) -> None:
    """With every patch in the banks, a score is the largest distance to a patch of another fold."""
    images = np.concatenate([GOOD[: count - 1], BAD[:1]])
    estimator = pixel_detector(sampler="all", scorer={"reweight": False}, aggregator={"patch_size": 1}).fit(images)
    cells = [F.avg_pool2d(prepare(image, Preprocessing(size=(24, 32))), 2).flatten(1).T.double() for image in images]

    def distance(image: int, others: list[int]) -> float:
        return float(torch.cdist(cells[image], torch.cat([cells[each] for each in others])).amin(dim=1).max())

    expected = np.empty(count)
    for fold in folds(count, 0):
        others = [index for index in range(count) if index not in fold]
        expected[fold] = [distance(index, others) for index in fold]
    np.testing.assert_allclose(estimator.decision_scores_, expected, rtol=1e-5)
    np.testing.assert_allclose(estimator.score_samples(images), 0, atol=1e-6)  # the final bank has all of them


def test_the_threshold_is_from_the_scores_of_training_images() -> None:
    for count in (2, 9, 12):
        estimator = pixel_detector(random_state=count).fit(GOOD[:count])
        assert sorted(estimator.decision_scores_) == list(estimator.detector_.calibration.scores)
        assert estimator.decision_scores_.max() == estimator.threshold_
        assert not estimator.labels_.any()  # on the threshold is not above it


def test_outliers_among_the_training_images_are_found() -> None:
    images = np.concatenate([BAD[:1], GOOD, BAD[1:2]])
    estimator = pixel_detector(contamination=1 / 7)
    assert estimator.fit_predict(images).tolist() == [-1, *[1] * 12, -1]
    assert estimator.labels_.tolist() == [1, *[0] * 12, 1]


def test_contamination_is_the_share_above_the_threshold() -> None:
    """Like in PyOD: decision_scores_, threshold_ and labels_."""
    for contamination, above in ((0.5, 6), (0.25, 3), (np.float32(0.01), 1)):
        estimator = pixel_detector(contamination=contamination).fit(GOOD)
        calibration = estimator.detector_.calibration
        assert estimator.labels_.sum() == above
        assert estimator.labels_.tolist() == (estimator.decision_scores_ > estimator.threshold_).tolist()
        assert estimator.detector_.threshold == estimator.threshold_ == -estimator.offset_
        above_map = sum(peak > (calibration.map_threshold or 0) for peak in calibration.peaks)
        assert above_map <= above
    assert "0.01 of 12 training images" in calibration.source
    assert calibration.describe().startswith("1 of 12 good images above it; 0.01 of 12 training images")


def test_a_score_on_the_threshold_is_an_inlier() -> None:
    estimator = pixel_detector().fit(GOOD)
    estimator.offset_ = estimator.score_samples(BAD[:1]).item()
    assert estimator.decision_function(BAD[:1]).tolist() == [0]
    assert estimator.predict(BAD[:1]).tolist() == [1]


def test_random_state() -> None:
    def bank(random_state: object) -> list[list[int]]:
        origin: list[list[int]] = pixel_detector(random_state=random_state).fit(GOOD[:4]).detector_.bank.origin.tolist()
        return origin

    before = str(np.random.get_state())  # noqa: NPY002
    assert bank(None) == bank(0) == bank(np.int64(0))
    assert bank(1) != bank(0)
    assert bank(np.random.RandomState(5)) == bank(np.random.RandomState(5))
    shared = np.random.RandomState(5)
    assert bank(shared) != bank(shared)
    assert str(np.random.get_state()) == before  # noqa: NPY002


def test_anomaly_maps() -> None:
    estimator = pixel_detector().fit(GOOD)
    large = cv2.resize(BAD[0], None, fx=2, fy=3)
    maps = estimator.anomaly_maps([BAD[0], large])
    assert [each.shape for each in maps] == [(72, 96), (216, 192)]
    assert {str(each.dtype) for each in maps} == {"float32"}
    blot = np.abs(BAD[0].astype(int) - draw(50)).max(axis=2) > 40
    assert blot[np.unravel_index(maps[0].argmax(), blot.shape)]
    with pytest.raises(pp.PatchcoreError, match="scorer 'whole-image' has no maps"):
        pixel_detector(scorer="whole-image").fit(GOOD).anomaly_maps(BAD)


@pytest.mark.parametrize("method", ["score_samples", "decision_function", "predict", "anomaly_maps"])
def test_not_fitted(method: str) -> None:
    with pytest.raises(NotFittedError):
        getattr(pixel_detector(), method)(BAD)
