"""Geometry of the charts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from patchcore_plugin.evaluation.report import charts


def test_band_contains_90_percent_of_the_distribution_functions() -> None:
    rng = np.random.default_rng(0)
    calibration_images, count = 19, 6
    chart = charts.calibration_chart([0.5] * count, calibration_images)
    assert chart is not None
    box = charts.Box()
    corners = [tuple(map(float, point.split(","))) for point in chart["band"].split()]
    band: list[list[int]] = [[] for _ in range(calibration_images + 2)]
    for x, y in corners:
        share = 1 - (y - box.top) / box.height
        band[round((x - box.left) / box.width * (calibration_images + 1))].append(round(share * count))
    scores = rng.random((20_000, calibration_images + count))
    ranks = np.sort(scores[:, :calibration_images], axis=1)[:, ::-1]
    for rank in range(1, calibration_images + 1):
        above = (scores[:, calibration_images:] > ranks[:, rank - 1, None]).sum(axis=1)
        low, high = (np.quantile(above, level, method="inverted_cdf") for level in (0.05, 0.95))
        assert {low, high} <= {*band[rank]}, rank


def test_distribution_function_jumps_at_the_p_values() -> None:
    chart = charts.calibration_chart([1 / 12, 10 / 12, 11 / 12, 1.0], 11)
    assert chart is not None
    box = charts.Box()
    points = [tuple(map(float, point.split(","))) for point in chart["steps"].split()]
    jumps = [(x - box.left) / box.width for (x, a), (_, b) in itertools.pairwise(points) if a != b]
    assert jumps == pytest.approx([1 / 12, 10 / 12, 11 / 12, 1], abs=1e-3)


def test_calibration_chart_needs_images() -> None:
    assert charts.calibration_chart([], 19) is None
    assert charts.calibration_chart([0.5], 0) is None


def test_histogram_counts_both_groups() -> None:
    chart = charts.histogram(np.array([0.0, 0.0, 1.0, 2.0]), np.array([False, False, False, True]), 1.5)
    assert chart is not None
    assert [group for group, *_ in chart["bars"]] == ["a", "a", "b"]
    assert chart["most"] == 2
    assert (chart["low"], chart["high"]) == ("0", "2.000")
    box = charts.Box()
    assert chart["threshold"] == pytest.approx(box.left + 0.75 * box.width)
    # The taller bar has twice the height of the others; group "b" lies below the axis.
    heights = [height for *_, height in chart["bars"]]
    assert heights == pytest.approx([heights[0], heights[0] / 2, heights[0] / 2])
    assert chart["bars"][2][2] == chart["middle"]
    assert charts.histogram(np.array([]), np.array([], dtype=bool), None) is None


def test_speed_chart_is_logarithmic() -> None:
    chart = charts.speed_chart({0: (0.01, 0.95), 2: (0.1, 0.9)})
    assert chart is not None
    box = charts.Box()
    (first, x0, y0), (second, x1, y1) = chart["marks"]
    assert (first, second) == (0, 2)
    # The axis has 1.2 decades, with the two points one decade apart, and starts below the lowest value, at 0.8.
    assert x1 - x0 == pytest.approx(box.width / 1.2)
    assert (y0, y1) == pytest.approx((box.top + 0.25 * box.height, box.top + 0.5 * box.height))
    ticks = {label: x for x, label in chart["x"]}
    assert list(ticks) == ["10 ms", "20 ms", "50 ms", "100 ms"]
    assert ticks["10 ms"] == pytest.approx(x0)
    assert [label for _, label in chart["y"]] == ["0.8", "0.9", "1"]
    assert charts.speed_chart({}) is None


@pytest.mark.parametrize("slowest", [0.01, 0.02, 0.1, 1.0, 10.0, 1000.0])
def test_ticks_do_not_overlap(slowest: float) -> None:
    chart = charts.speed_chart({0: (0.01, 0.9), 1: (slowest, 0.9)})
    assert chart is not None
    positions = [x for x, _ in chart["x"]]
    assert len(positions) >= 2
    assert all(right - left > 38 for left, right in itertools.pairwise(positions))


def test_styles_of_recipes_differ() -> None:
    assert len({charts.css_classes(k) for k in range(40)}) == 40
    assert len({charts.dash_pattern(k) for k in range(5)}) == 5
