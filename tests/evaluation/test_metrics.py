"""Metrics against plain, independent computations."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from patchcore_plugin.errors import TensorError
from patchcore_plugin.evaluation.metrics import Curve, PixelScores, aupro, image_metrics, pixel_auroc, pixel_metrics

Masks = list[npt.NDArray[np.bool_]]
Maps = list[npt.NDArray[np.float32]]


def naive_aupro(masks: Masks, maps: Maps, limit: float) -> float:
    """One pass over all pixels per threshold, regions from SciPy, trapezia one by one."""
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


def pair_count(labels: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]) -> float:
    bad, good = scores[labels], scores[~labels]
    won = (bad[:, None] > good[None]).sum() + 0.5 * (bad[:, None] == good[None]).sum()
    return float(won / (len(bad) * len(good)))


def random_case(seed: int, levels: int | None) -> tuple[Masks, Maps]:
    """Images of several sizes with noisy regions; `levels` quantises the maps, which makes ties."""
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
        assert aupro(masks, maps, limit) == pytest.approx(naive_aupro(masks, maps, limit), abs=1e-9)


@pytest.mark.parametrize("levels", [None, 7])
def test_pixel_auroc_equals_pair_counting(levels: int | None) -> None:
    masks, maps = random_case(3, levels)
    truth = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([values.ravel() for values in maps])
    assert pixel_auroc(masks, maps) == pytest.approx(pair_count(truth, scores), abs=1e-12)


def test_curves_enclose_the_areas_reported() -> None:
    masks, maps = random_case(4, 16)
    result = pixel_metrics(masks, maps, limit=1.0)
    assert result.roc is not None
    assert result.pro is not None
    for curve, area in [(result.roc, result.auroc), (result.pro, result.aupro)]:
        assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
        assert np.all(np.diff(curve.x) >= 0)
        assert np.all(np.diff(curve.y) >= 0)
        assert float(np.sum(np.diff(curve.x) * (curve.y[1:] + curve.y[:-1])) / 2) == pytest.approx(area)


def test_regions_touching_at_a_corner_are_one() -> None:
    mask = np.zeros((6, 6), dtype=bool)
    mask[1, 1] = mask[2, 2] = mask[2, 3] = True
    values = np.zeros((6, 6), dtype=np.float32)
    values[1, 1] = 1.0
    # One region of three pixels, a third found at no cost; then the diagonal from (0, 1/3) to (1, 1).
    expected = (1 / 3) + (2 / 3) * 0.3 / 2
    assert aupro([mask], [values]) == pytest.approx(expected)
    mask[2, 2] = False
    # Now two regions, one of them found whole.
    assert aupro([mask], [values]) == pytest.approx(0.5 + 0.5 * 0.3 / 2)


def test_a_small_region_counts_as_much_as_a_large_one() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[1:9, 1:9] = True
    mask[15, 15] = True
    only_large = np.where(np.arange(20)[:, None] < 10, mask, False).astype(np.float32)
    assert aupro([mask], [only_large]) == pytest.approx(0.5 + 0.5 * 0.3 / 2)
    assert (pixel_auroc([mask], [only_large]) or 0) > 0.98


def test_perfect_and_reversed_maps() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 3:6] = True
    assert aupro([mask], [mask.astype(np.float32)]) == 1.0
    assert pixel_auroc([mask], [mask.astype(np.float32)]) == 1.0
    assert aupro([mask], [-mask.astype(np.float32)]) == 0.0
    assert pixel_auroc([mask], [-mask.astype(np.float32)]) == 0.0


def test_constant_maps_are_chance() -> None:
    mask = np.eye(5, dtype=bool)
    maps = [np.full((5, 5), 3.0, dtype=np.float32)]
    assert pixel_auroc([mask], maps) == 0.5
    assert aupro([mask], maps) == pytest.approx(0.15)


def test_one_class_gives_none() -> None:
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    for mask in (np.zeros((3, 3), dtype=bool), np.ones((3, 3), dtype=bool)):
        result = pixel_metrics([mask], [values])
        assert (result.auroc, result.aupro, result.roc, result.pro) == (None, None, None, None)
    assert aupro([], []) is None
    for labels in ([True, True], [False, False], []):
        figures = image_metrics(labels, np.arange(len(labels), dtype=np.float32))
        assert (figures.auroc, figures.ap, figures.f1_max, figures.threshold) == (None, None, None, None)


def test_more_images_after_a_first_result() -> None:
    masks, maps = random_case(5, 9)
    pixels = PixelScores()
    for mask, values in zip(masks, maps, strict=True):
        pixels.add(mask, values)
        partial = pixels.metrics()
    assert partial.aupro == aupro(masks, maps)
    assert partial.auroc == pixel_auroc(masks, maps)


def test_what_does_not_fit_is_refused() -> None:
    mask = np.zeros((3, 3), dtype=bool)
    with pytest.raises(TensorError, match=r"got \[3, 3\] and \[3, 4\]"):
        aupro([mask], [np.zeros((3, 4), dtype=np.float32)])
    with pytest.raises(TensorError, match="NaN"):
        aupro([mask], [np.full((3, 3), np.nan, dtype=np.float32)])
    with pytest.raises(ValueError, match="in \\(0, 1\\]"):
        aupro([mask], [np.zeros((3, 3), dtype=np.float32)], limit=0.0)
    with pytest.raises(ValueError, match="shorter"):
        aupro([mask, mask], [np.zeros((3, 3), dtype=np.float32)])
    with pytest.raises(TensorError, match="labels"):
        image_metrics([True, False], [1.0])
    with pytest.raises(TensorError, match="scores"):
        image_metrics([True, False], [1.0, float("inf")])


@pytest.mark.parametrize("seed", range(4))
def test_image_figures_equal_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(60) > 0.4
    scores = np.round(rng.random(60) + 0.3 * labels, 1).astype(np.float32)
    figures = image_metrics(labels, scores)
    assert figures.auroc == pytest.approx(pair_count(labels, scores), abs=1e-12)

    f1, precision_sum, before = [], 0.0, 0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        called = scores >= threshold
        hits = int((called & labels).sum())
        f1.append(2 * hits / int(called.sum() + labels.sum()))
        precision_sum += hits / int(called.sum()) * (hits - before)
        before = hits
    assert figures.f1_max == pytest.approx(max(f1))
    assert figures.ap == pytest.approx(precision_sum / int(labels.sum()))
    assert figures.threshold is not None
    called = scores > figures.threshold
    assert 2 * int((called & labels).sum()) / int(called.sum() + labels.sum()) == pytest.approx(max(f1))


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_image_figures_equal_those_of_scikit_learn_and_their_curves(digits: int) -> None:
    rng = np.random.default_rng(digits)
    for count in (2, 3, 10, 80):
        labels = rng.permutation(np.arange(count) < max(1, count // 3))
        scores = np.round(rng.normal(size=count) + labels, digits)
        figures = image_metrics(labels, scores)
        assert figures.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert figures.ap == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
        best = max(f1_score(labels, scores >= threshold) for threshold in scores)
        assert figures.f1_max == pytest.approx(best, abs=1e-12)
        for curve, area in ((figures.roc, figures.auroc), (figures.pr, figures.ap)):
            assert curve is not None
            assert (curve.x[0], curve.x[-1]) == (0, 1)
            # What is drawn is what is said.
            assert float(np.sum(np.diff(curve.x) * (curve.y[1:] + curve.y[:-1])) / 2) == pytest.approx(area, abs=1e-12)


def test_threshold_lies_between_the_classes() -> None:
    assert image_metrics([False, False, True, True], [1.0, 2.0, 4.0, 8.0]).threshold == 3.0
    # Calling everything defective is best here, and nothing lies below.
    assert image_metrics([True, False], [1.0, 2.0]).threshold == np.nextafter(1.0, 0.0)
    lower = 1.0
    upper = float(np.nextafter(lower, 2.0))
    assert image_metrics([False, True], [lower, upper]).threshold == lower


def test_thinned_curve_keeps_ends_and_jumps() -> None:
    x = np.concatenate([np.linspace(0, 0.2, 5000), np.linspace(0.2, 1.0, 5000)])
    y = np.concatenate([np.full(5000, 0.1), np.full(5000, 0.9)])
    thin = Curve(x, y).thinned(100)
    assert len(thin.x) <= 102
    assert (thin.x[0], thin.x[-1]) == (0.0, 1.0)
    jump = int(np.argmax(np.diff(thin.y)))
    assert (thin.x[jump], thin.x[jump + 1]) == (0.2, 0.2)
    assert len(Curve(x[:50], y[:50]).thinned(100).x) == 50
