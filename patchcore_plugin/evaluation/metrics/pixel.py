"""Pixel-level metrics: AUROC and AUPRO.

A test set has about 10^8 pixels, for which general-purpose routines need ten times the memory of the scores. The
computation here is exact nevertheless: no bins, no subsampling, and every distinct score is a threshold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt

from patchcore_plugin.errors import TensorError

from .curve import Curve, FloatArray

AUPRO_LIMIT = 0.3
"""False positive rate up to which AUPRO is integrated, as is customary (Bergmann et al., IJCV 2021)."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PixelMetrics:
    """Pixel-level metrics. All are None if one of the two classes is absent.

    Parameters
    ----------
    auroc
        Area under the ROC curve over all pixels. Ties count half.
    aupro
        Mean per-region overlap, integrated over the false positive rate up to a limit and divided by that limit.
    roc
        True positive rate against false positive rate.
    pro
        Mean per-region overlap against false positive rate, over the full range.
    """

    auroc: float | None = None
    aupro: float | None = None
    roc: Curve | None = None
    pro: Curve | None = None

    def thin(self) -> PixelMetrics:
        """Return the same metrics with the curves reduced for drawing; see `Curve.thin`."""
        return replace(self, roc=self.roc and self.roc.thin(), pro=self.pro and self.pro.thin())


def pixel_metrics(
    masks: Iterable[Mask], maps: Iterable[npt.NDArray[np.floating[Any]]], limit: float = AUPRO_LIMIT
) -> PixelMetrics:
    """Compute the pixel-level metrics over all images.

    Parameters
    ----------
    masks
        One mask per image, bool [H, W], True on defects. Sizes may differ between images.
    maps
        One anomaly map per image, floating point [H, W]. Compared as float32.
    limit
        False positive rate up to which AUPRO is integrated, in (0, 1].

    Returns
    -------
    PixelMetrics
        Metrics and curves. All are None without both classes.

    Raises
    ------
    TensorError
        If a mask and its map differ in shape, or a map is not finite.
    ValueError
        If the numbers of masks and maps differ, or `limit` is outside (0, 1].

    Notes
    -----
    Defect regions are 8-connected and have equal weight regardless of their size. The false positive rate is taken
    over the defect-free pixels of all images (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021).

    Examples
    --------
    >>> mask = np.zeros((8, 8), dtype=bool)
    >>> mask[2:4, 2:4] = True
    >>> metrics = pixel_metrics([mask], [mask.astype(np.float32)])
    >>> metrics.auroc, metrics.aupro
    (1.0, 1.0)
    """
    pixels = PixelScores()
    for mask, anomaly_map in zip(masks, maps, strict=True):
        pixels.add(mask, anomaly_map)
    return pixels.metrics(limit)


@dataclass
class PixelScores:
    """Collect the pixels of one image after another, so that the maps need not stay in memory.

    Uses 4 bytes per defect-free pixel and 12 bytes per defective pixel.

    Examples
    --------
    >>> pixels = PixelScores()
    >>> pixels.add(np.eye(4, dtype=bool), np.eye(4, dtype=np.float32))
    >>> pixels.metrics().auroc
    1.0
    """

    _good: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _bad: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _weight: list[FloatArray] = field(default_factory=list)

    def add(self, mask: Mask, anomaly_map: npt.NDArray[np.floating[Any]]) -> None:
        """Add one image.

        Parameters
        ----------
        mask
            True on defects, bool [H, W].
        anomaly_map
            Anomaly scores, floating point [H, W].

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
        if not np.isfinite(values).all():
            raise TensorError("metrics: anomaly map: expected finite values, got NaN or infinity")
        truth = np.asarray(mask, dtype=bool)
        self._good.append(values[~truth])
        if truth.any():
            _, regions = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
            inside = regions[truth]
            self._bad.append(values[truth])
            self._weight.append(1.0 / np.bincount(inside)[inside])

    def metrics(self, limit: float = AUPRO_LIMIT) -> PixelMetrics:
        """Compute the metrics over all pixels added so far. More images can be added afterwards.

        Parameters
        ----------
        limit
            False positive rate up to which AUPRO is integrated, in (0, 1].

        Returns
        -------
        PixelMetrics
            Metrics and curves. All are None without both classes.

        Raises
        ------
        ValueError
            If `limit` is outside (0, 1].

        Notes
        -----
        Only distinct scores of *defective* pixels are vertices of the curves: between two of them, only the false
        positive rate changes, along a horizontal line. The far more numerous defect-free scores are therefore sorted
        and searched, which needs no indices, flags or cumulative sums for them.
        """
        if not 0 < limit <= 1:
            raise ValueError(f"limit: expected a false positive rate in (0, 1], got {limit}")
        good = _drain(self._good)
        if not len(good) or not self._bad:
            return PixelMetrics()
        self._good.append(good)
        good.sort()
        bad = np.concatenate(self._bad)
        order = np.argsort(bad)[::-1]
        bad = bad[order]
        last = np.flatnonzero(np.append(bad[1:] != bad[:-1], True))
        thresholds = bad[last]
        detected = last + 1
        overlap = np.cumsum(np.concatenate(self._weight)[order])[last]
        above = len(good) - np.searchsorted(good, thresholds, side="right")
        at_least = len(good) - np.searchsorted(good, thresholds, side="left")

        # Count a won pair as 2 and a tie as 1: integers, so nothing is rounded before the division.
        lost = int(np.sum(np.diff(detected, prepend=0) * (above + at_least)))
        pairs = 2 * len(bad) * len(good)
        x = np.concatenate([[0.0], np.stack([above, at_least], axis=1).ravel() / len(good), [1.0]])
        pro = Curve(x, _steps(overlap / overlap[-1]))
        roc = Curve(x, _steps(detected / len(bad)))
        return PixelMetrics((pairs - lost) / pairs, pro.area(limit) / limit, roc, pro)


class PixelSpool:
    """Write masks and anomaly maps to a file, and collect their pixels later.

    Keeping them in memory during a prediction would add to the peak memory measured for the method.

    Parameters
    ----------
    file
        Binary file open for reading and writing, such as ``tempfile.TemporaryFile()``.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._count = 0

    def add(self, mask: Mask, anomaly_map: npt.NDArray[Any]) -> None:
        """Write the mask and the anomaly map of one image.

        Parameters
        ----------
        mask
            True on defects, bool [H, W].
        anomaly_map
            Anomaly scores, floating point [H, W].
        """
        np.save(self._file, mask, allow_pickle=False)
        np.save(self._file, anomaly_map, allow_pickle=False)
        self._count += 1

    def read(self) -> PixelScores:
        """Read the file back and return the pixels of all images."""
        pixels = PixelScores()
        self._file.seek(0)
        for _ in range(self._count):
            mask = np.load(self._file, allow_pickle=False)
            pixels.add(mask, np.load(self._file, allow_pickle=False))
        return pixels


def _drain(chunks: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Empty the list into one array. Each chunk is freed as soon as it is copied, which halves the peak memory."""
    joined = np.empty(sum(len(chunk) for chunk in chunks), dtype=np.float32)
    end = len(joined)
    while chunks:
        chunk = chunks.pop()
        joined[end - len(chunk) : end] = chunk
        end -= len(chunk)
    return joined


def _steps(y: FloatArray) -> FloatArray:
    """Return the ordinates of a step function: at each threshold the previous value, then the new one."""
    before = np.concatenate([[0.0], y[:-1]])
    return np.concatenate([[0.0], np.stack([before, y], axis=1).ravel(), [1.0]])
