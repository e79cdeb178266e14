"""Image-level metrics against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from patchcore_plugin.errors import TensorError
from patchcore_plugin.evaluation.metrics.image import ImageMetrics, image_metrics


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(60) > 0.4
    scores = np.round(rng.random(60) + 0.3 * labels, 1).astype(np.float32)
    metrics = image_metrics(labels, scores)
    bad, good = scores[labels][:, None], scores[~labels]
    assert metrics.auroc == pytest.approx(np.mean((bad > good) + 0.5 * (bad == good)), abs=1e-12)

    f1, precision_sum, before = [], 0.0, 0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        predicted = scores >= threshold
        hits = int((predicted & labels).sum())
        f1.append(2 * hits / int(predicted.sum() + labels.sum()))
        precision_sum += hits / int(predicted.sum()) * (hits - before)
        before = hits
    assert metrics.f1_max == pytest.approx(max(f1))
    assert metrics.ap == pytest.approx(precision_sum / int(labels.sum()))
    assert metrics.threshold is not None
    predicted = scores > metrics.threshold
    assert 2 * int((predicted & labels).sum()) / int(predicted.sum() + labels.sum()) == pytest.approx(max(f1))


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_metrics_equal_those_of_scikit_learn_and_the_areas_of_their_curves(digits: int) -> None:
    rng = np.random.default_rng(digits)
    for count in (2, 3, 10, 80):
        labels = rng.permutation(np.arange(count) < max(1, count // 3))
        scores = np.round(rng.normal(size=count) + labels, digits)
        metrics = image_metrics(labels, scores)
        assert metrics.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert metrics.ap == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
        best = max(f1_score(labels, scores >= threshold) for threshold in scores)
        assert metrics.f1_max == pytest.approx(best, abs=1e-12)
        for curve, area in ((metrics.roc, metrics.auroc), (metrics.pr, metrics.ap)):
            assert curve is not None
            assert (curve.x[0], curve.x[-1]) == (0, 1)
            assert curve.area() == pytest.approx(area, abs=1e-12)


def test_threshold_lies_between_the_classes() -> None:
    assert image_metrics([False, False, True, True], [1.0, 2.0, 4.0, 8.0]).threshold == 3.0
    # F1 is highest if both images are predicted defective.
    assert image_metrics([True, False], [1.0, 2.0]).threshold == np.nextafter(1.0, 0.0)
    adjacent = float(np.nextafter(1.0, 2.0))
    assert image_metrics([False, True], [1.0, adjacent]).threshold == 1.0


@pytest.mark.parametrize("labels", [[True, True], [False, False], []])
def test_one_class_gives_none(labels: list[bool]) -> None:
    assert image_metrics(labels, np.arange(len(labels), dtype=np.float32)) == ImageMetrics()


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(TensorError, match=r"\[2\] and \[1\]"):
        image_metrics([True, False], [1.0])
    with pytest.raises(TensorError, match="infinity"):
        image_metrics([True, False], [1.0, float("inf")])
