"""Pixel-level metrics against plain, independent computations."""

from __future__ import annotations

import io
import itertools

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from patchcore_plugin.errors import TensorError
from patchcore_plugin.evaluation.metrics.pixel import PixelMetrics, PixelScores, PixelSpool, pixel_metrics

Masks = list[npt.NDArray[np.bool_]]
Maps = list[npt.NDArray[np.float32]]


def naive_aupro(masks: Masks, maps: Maps, limit: float) -> float:
    """Pass over all pixels per threshold; regions from SciPy, trapezia one by one."""
    regions = []
    for mask, values in zip(masks, maps, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [values[labels == k] for k in range(1, count + 1)]
    good = np.concatenate([values[~mask] for mask, values in zip(masks, maps, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for values in maps for v in values.ravel()}, reverse=True):
        overlaps = [float(np.mean(region >= threshold)) for region in regions]
        points.append((float(np.mean(good >= threshold)), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 > limit:
            if x0 < limit:
                y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
                area += (limit - x0) * (y0 + y1) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def random_case(seed: int, levels: int | None) -> tuple[Masks, Maps]:
    """Return images of several sizes with noisy regions; `levels` quantises the maps, which makes ties."""
    rng = np.random.default_rng(seed)
    masks, maps = [], []
    for shape in [(17, 23), (31, 12), (20, 20), (9, 40)]:
        mask = ndimage.binary_dilation(rng.random(shape) > 0.985, iterations=1)
        values = rng.random(shape) + 0.6 * mask
        if levels:
            values = np.floor(values * levels) / levels
        masks.append(mask)
        maps.append(values.astype(np.float32))
    masks[2][:] = False
    return masks, maps


@pytest.mark.parametrize("levels", [None, 64, 7, 2])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_equals_a_loop_over_thresholds(levels: int | None, limit: float) -> None:
    for seed in range(3):
        masks, maps = random_case(seed, levels)
        assert pixel_metrics(masks, maps, limit).aupro == pytest.approx(naive_aupro(masks, maps, limit), abs=1e-9)


@pytest.mark.parametrize("levels", [None, 7])
def test_auroc_equals_that_of_scikit_learn(levels: int | None) -> None:
    masks, maps = random_case(3, levels)
    labels = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([values.ravel() for values in maps])
    assert pixel_metrics(masks, maps).auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_areas_under_the_curves_equal_the_metrics() -> None:
    masks, maps = random_case(4, 16)
    metrics = pixel_metrics(masks, maps, limit=1.0)
    for curve, area in [(metrics.roc, metrics.auroc), (metrics.pro, metrics.aupro)]:
        assert curve is not None
        assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
        assert np.all(np.diff(curve.x) >= 0)
        assert np.all(np.diff(curve.y) >= 0)
        assert curve.area() == pytest.approx(area)


def test_regions_that_touch_at_a_corner_are_one() -> None:
    mask = np.zeros((6, 6), dtype=bool)
    mask[1, 1] = mask[2, 2] = mask[2, 3] = True
    values = np.zeros((6, 6), dtype=np.float32)
    values[1, 1] = 1.0
    # One region of three pixels: one third without a false positive, then the diagonal from (0, 1/3) to (1, 1).
    assert pixel_metrics([mask], [values]).aupro == pytest.approx((1 / 3) + (2 / 3) * 0.3 / 2)
    mask[2, 2] = False
    # Two regions, one of them detected completely.
    assert pixel_metrics([mask], [values]).aupro == pytest.approx(0.5 + 0.5 * 0.3 / 2)


def test_small_and_large_regions_have_equal_weight() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[1:9, 1:9] = True
    mask[15, 15] = True
    only_large = np.where(np.arange(20)[:, None] < 10, mask, False).astype(np.float32)
    metrics = pixel_metrics([mask], [only_large])
    assert metrics.aupro == pytest.approx(0.5 + 0.5 * 0.3 / 2)
    assert (metrics.auroc or 0) > 0.98


def test_perfect_reversed_and_constant_maps() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 3:6] = True
    values = mask.astype(np.float32)
    for anomaly_map, auroc, aupro in ((values, 1.0, 1.0), (-values, 0.0, 0.0), (0 * values + 3, 0.5, 0.15)):
        metrics = pixel_metrics([mask], [anomaly_map])
        assert metrics.auroc == auroc
        assert metrics.aupro == pytest.approx(aupro)


def test_one_class_gives_none() -> None:
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    for mask in (np.zeros((3, 3), dtype=bool), np.ones((3, 3), dtype=bool)):
        assert pixel_metrics([mask], [values]) == PixelMetrics()
    assert pixel_metrics([], []) == PixelMetrics()


def test_images_added_after_a_first_result_count() -> None:
    masks, maps = random_case(5, 9)
    pixels = PixelScores()
    for mask, values in zip(masks, maps, strict=True):
        pixels.add(mask, values)
        metrics = pixels.metrics()
    complete = pixel_metrics(masks, maps)
    assert (metrics.auroc, metrics.aupro) == (complete.auroc, complete.aupro)


def test_spool_returns_the_pixels() -> None:
    masks, maps = random_case(6, None)
    spool = PixelSpool(io.BytesIO())
    for mask, values in zip(masks, maps, strict=True):
        spool.add(mask, values)
    assert spool.read().metrics().aupro == pixel_metrics(masks, maps).aupro


def test_invalid_arguments_are_refused() -> None:
    mask = np.zeros((3, 3), dtype=bool)
    values = np.zeros((3, 3), dtype=np.float32)
    with pytest.raises(TensorError, match=r"\[3, 3\] and \[3, 4\]"):
        pixel_metrics([mask], [np.zeros((3, 4), dtype=np.float32)])
    with pytest.raises(TensorError, match="NaN"):
        pixel_metrics([mask], [values * np.nan])
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        pixel_metrics([mask], [values], limit=0.0)
    with pytest.raises(ValueError, match="shorter"):
        pixel_metrics([mask, mask], [values])
