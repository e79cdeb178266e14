"""The geometry of a report's charts, in units of their SVG; templates draw it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore_plugin.evaluation.metrics import Curve

from .format import number

BINS = 24
BAND = 200
"""Steps at most in the outline of a band."""
STYLES = 8
"""Colours of curves; those that come after take them again, with another pattern of dashes."""


@dataclass(frozen=True)
class Box:
    """The drawing area of a chart inside its SVG, in SVG units."""

    left: float = 42
    top: float = 8
    width: float = 270
    height: float = 196

    def points(self, curve: Curve, x_max: float = 1.0) -> str:
        """Return the curve as the ``points`` of a polyline; the ordinates run from 0 to 1."""
        x = self.left + curve.x / x_max * self.width
        y = self.top + (1 - curve.y) * self.height
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def cut(curve: Curve, limit: float) -> Curve:
    """Return the part of the curve up to the abscissa `limit`, its last point on the line there."""
    inside = curve.x <= limit
    if inside.all():
        return curve
    y = np.interp(limit, [curve.x[inside][-1], curve.x[~inside][0]], [curve.y[inside][-1], curve.y[~inside][0]])
    return Curve(np.append(curve.x[inside], limit), np.append(curve.y[inside], y))


def histogram(
    scores: npt.NDArray[np.float64], bad: npt.NDArray[np.bool_], threshold: float | None
) -> dict[str, Any] | None:
    """Return the bars of a mirrored histogram, one group above and the other below; None without scores.

    Parameters
    ----------
    scores
        Image scores, [N].
    bad
        Which are shown below, those of defective images for example, [N].
    threshold
        A score to be marked.
    """
    if not len(scores):
        return None
    shown = scores if threshold is None else np.append(scores, threshold)
    low, high = _span(float(shown.min()), float(shown.max()))
    counts = [np.histogram(scores[group], bins=BINS, range=(low, high))[0] for group in (~bad, bad)]
    most = max(int(count.max()) for count in counts)
    box = Box()
    middle = box.top + box.height / 2
    step, unit = box.width / BINS, (box.height / 2 - 12) / most
    bars = []
    for style, sign, count in (("a", 1, counts[0]), ("b", -1, counts[1])):
        for position, number_of in enumerate(count):
            top = middle - number_of * unit if sign > 0 else middle
            if number_of:
                bars.append((style, box.left + position * step + 1, top, step - 2, number_of * unit))
    at = None if threshold is None else box.left + (threshold - low) / (high - low) * box.width
    return {
        "bars": bars,
        "middle": middle,
        "threshold": at,
        "low": number(low),
        "high": number(high),
        "most": most,
    }


def calibration_chart(p_values: Sequence[float], judged: int) -> dict[str, Any] | None:
    """Return the share of good test images whose p-value is at most x, for x in 0..1; None without any.

    Parameters
    ----------
    p_values
        Those of the good test images.
    judged
        How many good images these were compared with.

    Returns
    -------
    dict or None
        ``steps``, points of a line; ``band``, those of a polygon in which, at each x, nine in ten such lines are where
        the images are alike.
    """
    if not len(p_values) or not judged:
        return None
    # Loaded only where a report is made.
    from scipy.stats import betabinom

    count = len(p_values)
    values, shares = np.unique(p_values, return_counts=True)
    steps = _steps(values, np.cumsum(shares) / count)
    ranks = np.unique(np.linspace(1, judged, min(judged, BAND)).round().astype(int))
    # So many of the test images rank among the k highest of all, as a Polya urn has it.
    low, high = (betabinom(count, ranks, judged + 1 - ranks).ppf(level) / count for level in (0.05, 0.95))
    x = ranks / (judged + 1)
    upper, lower = _steps(x, high), _steps(x, low)
    return {
        "steps": Box().points(steps),
        "band": " ".join([Box().points(upper), Box().points(Curve(lower.x[::-1], lower.y[::-1]))]),
    }


def _steps(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Curve:
    """Return the vertices of a line from (0, 0) that jumps to each y at its x, and goes on to (1, 1)."""
    corners = np.repeat(np.concatenate([[0.0], y]), 2)
    return Curve(np.concatenate([[0.0], np.repeat(x, 2), [1.0, 1.0]]), np.append(corners, 1.0))


def speed_chart(points: Mapping[int, tuple[float, float]]) -> dict[str, Any] | None:
    """Return a chart of quality against seconds, which are on a logarithmic axis; None without points.

    Parameters
    ----------
    points
        By number of the recipe: seconds per image, and a figure in 0..1.
    """
    if not points:
        return None
    box = Box()
    logs = [math.log10(seconds) for seconds, _ in points.values()]
    middle, half = (min(logs) + max(logs)) / 2, (max(logs) - min(logs)) / 2
    # A tenth of a decade beside the outermost, and room for two ticks where all are close.
    half = max(half + 0.1, 0.35)
    left, right = middle - half, middle + half
    # Not from 0, so that differences are seen.
    bottom = max(0.0, math.floor(10 * min(value for _, value in points.values()) - 1e-9) / 10)

    def x(log: float) -> float:
        return box.left + (log - left) / (right - left) * box.width

    def y(value: float) -> float:
        return box.top + (1 - (value - bottom) / (1 - bottom)) * box.height

    ticks = [
        mantissa * 10.0**power
        for power in range(math.floor(left), math.ceil(right) + 1)
        for mantissa in ((1, 2, 5) if right - left < 1.5 else (1,))
        if left <= math.log10(mantissa * 10.0**power) <= right
    ]
    return {
        "marks": [(number_of, x(math.log10(each)), y(value)) for number_of, (each, value) in points.items()],
        "x": [(x(math.log10(tick)), _time(tick)) for tick in ticks],
        "y": [(y(bottom + part * (1 - bottom)), f"{bottom + part * (1 - bottom):.3g}") for part in (0, 0.5, 1)],
    }


def pattern(index: int) -> int:
    """Return the pattern of dashes of a recipe's curves, of five, the densest first; and the shape of its mark."""
    return (index + index // STYLES) % 5


def style(index: int) -> str:
    """Return the classes of a recipe's curves and mark: a colour, and a pattern of dashes."""
    return f"s{index % STYLES} d{pattern(index)}"


def mark(index: int, x: float, y: float) -> str:
    """Return the path of a mark, another shape for each of five recipes in turn."""
    shapes: Sequence[Sequence[tuple[float, float]]] = (
        [(math.cos(k * math.pi / 8), math.sin(k * math.pi / 8)) for k in range(16)],
        [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
    )
    corners = [f"{x + 5 * a:.1f} {y + 5 * b:.1f}" for a, b in shapes[pattern(index)]]
    return f"M{'L'.join(corners)}Z"


def _span(low: float, high: float) -> tuple[float, float]:
    """Return a range that is not empty."""
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-300):
        return low, high
    half = max(0.5, 1e-6 * abs(high))
    return low - half, high + half


def _time(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"
