"""How well scores separate defective from good: by image and by pixel.

Image-level figures come from scikit-learn. The pixel-level ones are computed here, because a test set holds
some 10^8 pixels, for which the general routines need ten times the memory of the scores themselves. They are
exact all the same: no bins, no subsampling; every distinct score is a threshold.

A figure that does not exist, because one of the two classes is absent, is None and never NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from patchcore_plugin.errors import TensorError

AUPRO_LIMIT = 0.3
"""False positive rate up to which AUPRO is integrated: the usual one (Bergmann et al., IJCV 2021)."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Points of a curve, joined by straight lines.

    Parameters
    ----------
    x
        Abscissae, float64 [P].
    y
        Ordinates, float64 [P].
    """

    x: FloatArray
    y: FloatArray

    def thinned(self, points: int = 200) -> Curve:
        """Return at most about `points` of the points, spread evenly along the curve, for drawing.

        The first and last point stay, and so do both ends of a jump, so that stairs stay stairs.
        """
        if len(self.x) <= points:
            return self
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(self.x)) + np.abs(np.diff(self.y)))])
        after = np.searchsorted(length, np.linspace(0.0, length[-1], max(points // 2, 2)))
        after = np.minimum(after, len(length) - 1)
        keep = np.unique(np.concatenate([[0], np.maximum(after - 1, 0), after, [len(length) - 1]]))
        return Curve(self.x[keep], self.y[keep])


@dataclass(frozen=True)
class ImageMetrics:
    """Image-level figures; each None where a class is absent.

    Parameters
    ----------
    auroc
        Area under the ROC curve: how often a defective image scores above a good one, ties counting half.
    ap
        Average precision: the area under the precision-recall curve, as a step function.
    f1_max
        The best F1 that any threshold gives.
    threshold
        A threshold that gives it: halfway between the lowest score called defective and the next one below,
        so that neither lies on it. A score above it is called defective.
    roc
        True against false positive rate.
    pr
        Precision against recall, as the step function whose area AP is.
    """

    auroc: float | None = None
    ap: float | None = None
    f1_max: float | None = None
    threshold: float | None = None
    roc: Curve | None = None
    pr: Curve | None = None

    def thinned(self) -> ImageMetrics:
        """Return the same figures with curves of few points, to be drawn and kept."""
        return replace(
            self,
            roc=self.roc.thinned() if self.roc else None,
            pr=self.pr.thinned() if self.pr else None,
        )


@dataclass(frozen=True)
class PixelMetrics:
    """Pixel-level figures; each None where a class is absent.

    Parameters
    ----------
    auroc
        Area under the ROC curve over all pixels, ties counting half.
    aupro
        Mean overlap per defect region, integrated over the false positive rate up to a limit, and divided
        by that limit.
    roc
        True against false positive rate.
    pro
        Mean overlap per region against false positive rate, the whole range.
    """

    auroc: float | None = None
    aupro: float | None = None
    roc: Curve | None = None
    pro: Curve | None = None

    def thinned(self) -> PixelMetrics:
        """Return the same figures with curves of few points, to be drawn and kept."""
        return replace(
            self,
            roc=self.roc.thinned() if self.roc else None,
            pro=self.pro.thinned() if self.pro else None,
        )


def image_metrics(labels: npt.ArrayLike, scores: npt.ArrayLike) -> ImageMetrics:
    """Return the image-level figures.

    Parameters
    ----------
    labels
        True for defective, bool [N].
    scores
        Anomaly scores, floating point [N]; larger is more anomalous.

    Raises
    ------
    TensorError
        If the lengths differ or a score is not finite.
    """
    truth = np.asarray(labels, dtype=bool)
    values = np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise TensorError(
            f"metrics: expected labels and scores of one shape [N], got {list(truth.shape)} and {list(values.shape)}"
        )
    _check_finite("scores", values)
    if truth.all() or not truth.any():
        return ImageMetrics()
    precision, recall, thresholds = precision_recall_curve(truth, values)
    # Without a true positive both are 0, and so is F1.
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    # The last point stands for "nothing is called defective" and has no threshold.
    best = int(np.argmax(f1[:-1]))
    false_positive, true_positive, _ = roc_curve(truth, values)
    return ImageMetrics(
        auroc=float(roc_auc_score(truth, values)),
        ap=float(average_precision_score(truth, values)),
        f1_max=float(f1[best]),
        threshold=_below(float(thresholds[best]), values),
        roc=Curve(false_positive, true_positive),
        # From each recall to the next one, the precision there.
        pr=Curve(np.repeat(recall[::-1], 2)[1:-1], np.repeat(precision[-2::-1], 2)),
    )


def pixel_auroc(masks: Iterable[npt.NDArray[np.bool_]], maps: Iterable[npt.NDArray[np.floating[Any]]]) -> float | None:
    """Return the area under the ROC curve over all pixels of all images, or None without both classes.

    Parameters
    ----------
    masks
        True on defects, bool [H, W] each; the sizes may differ from image to image.
    maps
        Anomaly maps, floating point [H, W] each, compared as float32.

    Raises
    ------
    TensorError
        If a mask and its map differ in shape, or a map is not finite.
    ValueError
        If there are not as many masks as maps.
    """
    return pixel_metrics(masks, maps).auroc


def aupro(
    masks: Iterable[npt.NDArray[np.bool_]],
    maps: Iterable[npt.NDArray[np.floating[Any]]],
    limit: float = AUPRO_LIMIT,
) -> float | None:
    """Return the normalised area under the per-region-overlap curve up to the false positive rate `limit`.

    Regions are 8-connected, each counts alike however large, and the false positive rate is over the
    defect-free pixels of all images (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021).
    Arguments and errors as for `pixel_auroc`; ValueError also for a limit outside (0, 1]. `pixel_metrics`
    gives the curve.
    """
    return pixel_metrics(masks, maps, limit).aupro


def pixel_metrics(
    masks: Iterable[npt.NDArray[np.bool_]],
    maps: Iterable[npt.NDArray[np.floating[Any]]],
    limit: float = AUPRO_LIMIT,
) -> PixelMetrics:
    """Return all pixel-level figures and curves at once; arguments and errors as for `aupro`."""
    pixels = PixelScores()
    for mask, anomaly_map in zip(masks, maps, strict=True):
        pixels.add(mask, anomaly_map)
    return pixels.metrics(limit)


@dataclass
class PixelScores:
    """Gathers the pixels of image after image, so that nobody has to keep the maps.

    Holds 4 bytes per defect-free pixel and 12 per defective one.
    """

    _good: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _bad: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _weight: list[FloatArray] = field(default_factory=list)

    def add(self, mask: npt.NDArray[np.bool_], anomaly_map: npt.NDArray[np.floating[Any]]) -> None:
        """Add one image's mask, bool [H, W], and map, floating point [H, W].

        Raises
        ------
        TensorError
            If the shapes differ or the map is not finite.
        """
        if mask.ndim != 2 or mask.shape != anomaly_map.shape:
            raise TensorError(
                f"metrics: expected a mask and a map of one shape [H, W], got {list(mask.shape)} "
                f"and {list(anomaly_map.shape)}"
            )
        values = np.asarray(anomaly_map, dtype=np.float32)
        _check_finite("anomaly map", values)
        truth = np.asarray(mask, dtype=bool)
        self._good.append(values[~truth])
        if truth.any():
            _, regions = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
            inside = regions[truth]
            self._bad.append(values[truth])
            self._weight.append(1.0 / np.bincount(inside)[inside])

    def metrics(self, limit: float = AUPRO_LIMIT) -> PixelMetrics:
        """Return the figures over all pixels added so far; ValueError for a limit outside (0, 1].

        The curve's vertices lie at the distinct scores of *defective* pixels: between two of these only the
        false positive rate moves, on a horizontal line. So the many defect-free scores are sorted and looked
        up, and need no indices, flags or running sums of their own.
        """
        if not 0 < limit <= 1:
            raise ValueError(f"limit: expected a false positive rate in (0, 1], got {limit}")
        good = _drain(self._good)
        if not len(good) or not self._bad:
            return PixelMetrics()
        # One array instead of many costs nothing more, and more images can still be added.
        self._good.append(good)
        good.sort()
        bad = np.concatenate(self._bad)
        order = np.argsort(bad)[::-1]
        bad = bad[order]
        last = np.flatnonzero(np.append(bad[1:] != bad[:-1], True))
        thresholds = bad[last]
        found = last + 1
        overlap = np.cumsum(np.concatenate(self._weight)[order])[last]
        above = len(good) - np.searchsorted(good, thresholds, side="right")
        at_least = len(good) - np.searchsorted(good, thresholds, side="left")

        # A pair counts 2 when won and 1 when tied: whole numbers, so nothing is rounded before the division.
        lost = int(np.sum(np.diff(found, prepend=0) * (above + at_least)))
        pairs = 2 * len(bad) * len(good)
        x = _with_ends(np.stack([above, at_least], axis=1).ravel() / len(good))
        pro = Curve(x, _stairs(overlap / overlap[-1]))
        roc = Curve(x, _stairs(found / len(bad)))
        return PixelMetrics((pairs - lost) / pairs, _area(pro, limit) / limit, roc, pro)


def _drain(chunks: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Empty the list into one array; each chunk is freed as it is copied, which halves the peak."""
    joined = np.empty(sum(len(chunk) for chunk in chunks), dtype=np.float32)
    end = len(joined)
    while chunks:
        chunk = chunks.pop()
        joined[end - len(chunk) : end] = chunk
        end -= len(chunk)
    return joined


def _with_ends(x: FloatArray) -> FloatArray:
    return np.concatenate([[0.0], x, [1.0]])


def _stairs(y: FloatArray) -> FloatArray:
    """Return the ordinates of the vertices: at each threshold the value before it, then the one at it."""
    before = np.concatenate([[0.0], y[:-1]])
    return np.concatenate([[0.0], np.stack([before, y], axis=1).ravel(), [1.0]])


def _area(curve: Curve, limit: float) -> float:
    """Return the area under the curve from 0 to `limit`, which lies on the line between its neighbours."""
    end = int(np.searchsorted(curve.x, limit, side="right"))
    x, y = curve.x[:end], curve.y[:end]
    if end < len(curve.x):
        share = (limit - x[-1]) / (curve.x[end] - x[-1])
        x = np.append(x, limit)
        y = np.append(y, y[-1] + share * (curve.y[end] - y[-1]))
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)


def _below(threshold: float, values: FloatArray) -> float:
    """Return a threshold that is strictly below the lowest score called defective, and above the next one."""
    just_below = float(np.nextafter(threshold, -np.inf))
    lower = values[values < threshold]
    if not len(lower):
        return just_below
    middle = float(lower.max() / 2 + threshold / 2)
    # Between two neighbouring floats there is nothing.
    return middle if lower.max() < middle < threshold else float(lower.max())


def _check_finite(what: str, values: npt.NDArray[np.floating[Any]]) -> None:
    if not np.isfinite(values).all():
        raise TensorError(f"metrics: {what}: expected finite values, got NaN or infinity")
