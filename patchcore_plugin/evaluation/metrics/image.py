"""Image-level metrics, computed by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from patchcore_plugin.errors import TensorError

from .curve import Curve, FloatArray


@dataclass(frozen=True)
class ImageMetrics:
    """Image-level metrics. All are None if one of the two classes is absent.

    Parameters
    ----------
    auroc
        Area under the ROC curve: the probability that a defective image scores above a good one. Ties count half.
    ap
        Average precision: the area under the precision-recall curve as a step function.
    f1_max
        Highest F1 score over all thresholds.
    threshold
        A threshold that attains `f1_max`. It lies halfway between the lowest score above it and the next lower
        score. An image is predicted defective if its score is above the threshold.
    roc
        True positive rate against false positive rate.
    pr
        Precision against recall, as the step function whose area is `ap`.
    """

    auroc: float | None = None
    ap: float | None = None
    f1_max: float | None = None
    threshold: float | None = None
    roc: Curve | None = None
    pr: Curve | None = None

    def thin(self) -> ImageMetrics:
        """Return the same metrics with the curves reduced for drawing; see `Curve.thin`."""
        return replace(self, roc=self.roc and self.roc.thin(), pr=self.pr and self.pr.thin())


def image_metrics(labels: npt.ArrayLike, scores: npt.ArrayLike) -> ImageMetrics:
    """Compute the image-level metrics.

    Parameters
    ----------
    labels
        True for defective images, bool [N].
    scores
        Anomaly scores, floating point [N]. Higher is more anomalous.

    Returns
    -------
    ImageMetrics
        Metrics and curves. All are None without both classes.

    Raises
    ------
    TensorError
        If the shapes differ or a score is not finite.

    Examples
    --------
    >>> metrics = image_metrics([False, False, True, True], [1.0, 3.0, 2.0, 4.0])
    >>> metrics.auroc, metrics.f1_max, metrics.threshold
    (0.75, 0.8, 1.5)
    """
    truth = np.asarray(labels, dtype=bool)
    values = np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise TensorError(
            f"metrics: expected labels and scores of one shape [N], got {list(truth.shape)} and {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise TensorError("metrics: scores: expected finite values, got NaN or infinity")
    if truth.all() or not truth.any():
        return ImageMetrics()
    precision, recall, thresholds = precision_recall_curve(truth, values)
    # Without a true positive, precision, recall and F1 are 0; `tiny` avoids 0 / 0.
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    # The last point, where nothing is predicted defective, has no threshold.
    best = int(np.argmax(f1[:-1]))
    false_positive_rate, true_positive_rate, _ = roc_curve(truth, values)
    return ImageMetrics(
        auroc=float(roc_auc_score(truth, values)),
        ap=float(average_precision_score(truth, values)),
        f1_max=float(f1[best]),
        threshold=_midpoint_below(float(thresholds[best]), values),
        roc=Curve(false_positive_rate, true_positive_rate),
        # Precision is constant between two recalls.
        pr=Curve(np.repeat(recall[::-1], 2)[1:-1], np.repeat(precision[-2::-1], 2)),
    )


def _midpoint_below(score: float, values: FloatArray) -> float:
    """Return a threshold strictly below `score` and not below the next lower value."""
    lower = values[values < score]
    if not len(lower):
        return float(np.nextafter(score, -np.inf))
    highest = float(lower.max())
    middle = highest / 2 + score / 2
    # There is no float between two adjacent ones.
    return middle if highest < middle < score else highest
