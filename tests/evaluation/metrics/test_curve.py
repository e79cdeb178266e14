"""Curves: area and thinning."""

from __future__ import annotations

import numpy as np
import pytest

from patchcore_plugin.evaluation.metrics.curve import Curve


@pytest.mark.parametrize(("limit", "area"), [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0625)])
def test_area_is_interpolated_at_its_limit(limit: float, area: float) -> None:
    curve = Curve(np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert curve.area(limit) == pytest.approx(area)


def test_thin_curve_keeps_ends_and_jumps() -> None:
    x = np.concatenate([np.linspace(0, 0.2, 5000), np.linspace(0.2, 1.0, 5000)])
    y = np.concatenate([np.full(5000, 0.1), np.full(5000, 0.9)])
    thin = Curve(x, y).thin(100)
    assert len(thin.x) <= 102
    assert (thin.x[0], thin.x[-1]) == (0.0, 1.0)
    jump = int(np.argmax(np.diff(thin.y)))
    assert (thin.x[jump], thin.x[jump + 1]) == (0.2, 0.2)
    assert len(Curve(x[:50], y[:50]).thin(100).x) == 50
