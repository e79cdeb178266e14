"""Charts as numbers: where their lines, marks and ticks are."""

from __future__ import annotations

import numpy as np
import pytest

from patchcore_plugin.evaluation.report import charts as plots


def test_nine_in_ten_lines_are_in_the_band() -> None:
    """At each promised rate, of test images that are like those of the calibration."""
    rng = np.random.default_rng(0)
    judged, count = 19, 6
    chart = plots.calibration_chart([0.5] * count, judged)
    assert chart is not None
    box = plots.Box()
    corners = [tuple(map(float, point.split(","))) for point in chart["band"].split()]
    band: list[list[int]] = [[] for _ in range(judged + 2)]
    for x, y in corners:
        share = 1 - (y - box.top) / box.height
        band[round((x - box.left) / box.width * (judged + 1))].append(round(share * count))
    scores = rng.random((20_000, judged + count))
    ranks = np.sort(scores[:, :judged], axis=1)[:, ::-1]
    for place in range(1, judged + 1):
        above = (scores[:, judged:] > ranks[:, place - 1, None]).sum(axis=1)
        # After the jump at each place the outline is where it is until the next.
        low, high = (np.quantile(above, level, method="inverted_cdf") for level in (0.05, 0.95))
        assert {low, high} <= {*band[place]}, place
    assert plots.calibration_chart([], judged) is None
    assert plots.calibration_chart([0.5], 0) is None


def test_speed_chart() -> None:
    chart = plots.speed_chart({0: (0.01, 0.95), 2: (0.1, 0.9)})
    assert chart is not None
    box = plots.Box()
    (first, x0, y0), (second, x1, y1) = chart["marks"]
    assert (first, second) == (0, 2)
    # A range of 1.2 decades with the two a decade apart; heights from 0.8 (below the worst) to 1.
    assert x1 - x0 == pytest.approx(box.width / 1.2)
    assert (y0, y1) == pytest.approx((box.top + 0.25 * box.height, box.top + 0.5 * box.height))
    ticks = {label: x for x, label in chart["x"]}
    assert list(ticks) == ["10 ms", "20 ms", "50 ms", "100 ms"]
    assert ticks["10 ms"] == pytest.approx(x0)
    assert [label for _, label in chart["y"]] == ["0.8", "0.9", "1"]
    assert plots.speed_chart({}) is None
    alone = plots.speed_chart({0: (0.05, 1.0)})
    assert alone is not None
    assert [label for _, label in alone["x"]] == ["50 ms", "100 ms"]
