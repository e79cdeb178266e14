"""Geometry of the charts in SVG units; the templates draw it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore_plugin.evaluation.metrics.curve import Curve

from .format import number

BINS = 24
MAX_BAND_STEPS = 200
"""Limits the number of points in the outline of a confidence band."""
COLOURS = 8
"""Number of curve colours. Further curves repeat them with another dash pattern."""
DASH_PATTERNS = 5
"""Number of dash patterns, and of marker shapes."""


@dataclass(frozen=True)
class Box:
    """Plotting area of a chart, in SVG units.

    Parameters
    ----------
    left, top
        Upper left corner.
    width, height
        Size.
    """

    left: float = 42
    top: float = 8
    width: float = 270
    height: float = 196

    def points(self, curve: Curve, x_max: float = 1.0) -> str:
        """Return a curve as the ``points`` attribute of a polyline.

        Parameters
        ----------
        curve
            Ordinates from 0 to 1.
        x_max
            Abscissa at the right edge.
        """
        x = self.left + curve.x / x_max * self.width
        y = self.top + (1 - curve.y) * self.height
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def clip(curve: Curve, limit: float) -> Curve:
    """Return the part of a curve up to an abscissa, interpolated linearly at its end.

    Parameters
    ----------
    curve
        Points in ascending order of x.
    limit
        The largest x of the result.

    Examples
    --------
    >>> clip(Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0])), 0.25).y.tolist()
    [0.0, 0.25]
    """
    inside = curve.x <= limit
    if inside.all():
        return curve
    y = np.interp(limit, [curve.x[inside][-1], curve.x[~inside][0]], [curve.y[inside][-1], curve.y[~inside][0]])
    return Curve(np.append(curve.x[inside], limit), np.append(curve.y[inside], y))


def histogram(
    scores: npt.NDArray[np.float64], lower: npt.NDArray[np.bool_], threshold: float | None
) -> dict[str, Any] | None:
    """Compute a mirrored histogram: one group of scores above the axis, the other below.

    Parameters
    ----------
    scores
        Image scores, [N].
    lower
        True for the group below the axis, such as defective images, [N].
    threshold
        A score to mark.

    Returns
    -------
    dict or None
        ``bars`` (group "a" or "b", x, y, width, height), ``middle`` (y of the axis), ``threshold`` (x of the mark),
        ``low`` and ``high`` (ends of the axis as text), and ``most`` (count of the tallest bar). None without scores.
    """
    if not len(scores):
        return None
    values = scores if threshold is None else np.append(scores, threshold)
    low, high = _nonempty_range(float(values.min()), float(values.max()))
    counts = [np.histogram(scores[group], bins=BINS, range=(low, high))[0] for group in (~lower, lower)]
    most = max(int(count.max()) for count in counts)
    box = Box()
    middle = box.top + box.height / 2
    step, unit = box.width / BINS, (box.height / 2 - 12) / most
    bars = []
    for group, sign, heights in (("a", 1, counts[0]), ("b", -1, counts[1])):
        for position, count in enumerate(heights):
            top = middle - count * unit if sign > 0 else middle
            if count:
                bars.append((group, box.left + position * step + 1, top, step - 2, count * unit))
    return {
        "bars": bars,
        "middle": middle,
        "threshold": None if threshold is None else box.left + (threshold - low) / (high - low) * box.width,
        "low": number(low),
        "high": number(high),
        "most": most,
    }


def calibration_chart(p_values: Sequence[float], calibration_images: int) -> dict[str, Any] | None:
    """Compute the empirical distribution of the p-values of good test images, with a 90% band.

    Parameters
    ----------
    p_values
        p-values of the good test images.
    calibration_images
        Number of good images that the p-values are relative to.

    Returns
    -------
    dict or None
        ``steps``, points of the distribution function; ``band``, points of a polygon that contains, at each abscissa,
        90% of such functions if test and calibration images are exchangeable. None without images.
    """
    if not len(p_values) or not calibration_images:
        return None
    # Imported late: only reports need SciPy.
    from scipy.stats import betabinom

    count = len(p_values)
    values, frequencies = np.unique(p_values, return_counts=True)
    steps = _step_curve(values, np.cumsum(frequencies) / count)
    ranks = np.linspace(1, calibration_images, min(calibration_images, MAX_BAND_STEPS))
    ranks = np.unique(ranks.round().astype(int))
    # The number of test images above the k-th highest calibration score has a beta-binomial distribution.
    low, high = (betabinom(count, ranks, calibration_images + 1 - ranks).ppf(level) / count for level in (0.05, 0.95))
    x = ranks / (calibration_images + 1)
    upper, lower = _step_curve(x, high), _step_curve(x, low)
    return {
        "steps": Box().points(steps),
        "band": " ".join([Box().points(upper), Box().points(Curve(lower.x[::-1], lower.y[::-1]))]),
    }


def speed_chart(points: Mapping[int, tuple[float, float]]) -> dict[str, Any] | None:
    """Compute a chart of quality against time, with a logarithmic time axis.

    Parameters
    ----------
    points
        Seconds per image, and a metric from 0 to 1, by index of the recipe.

    Returns
    -------
    dict or None
        ``marks`` (index, x, y), and the ticks ``x`` and ``y`` (position, text). None without points.
    """
    if not points:
        return None
    box = Box()
    logs = [math.log10(seconds) for seconds, _ in points.values()]
    middle, half = (min(logs) + max(logs)) / 2, (max(logs) - min(logs)) / 2
    # A margin of a tenth of a decade; at least 0.7 decades, which contain two ticks.
    half = max(half + 0.1, 0.35)
    left, right = middle - half, middle + half
    # Not from 0: differences must be visible.
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
        "marks": [(index, x(math.log10(seconds)), y(value)) for index, (seconds, value) in points.items()],
        "x": [(x(math.log10(tick)), f"{tick * 1000:g} ms" if tick < 1 else f"{tick:g} s") for tick in ticks],
        "y": [(y(bottom + part * (1 - bottom)), f"{bottom + part * (1 - bottom):.3g}") for part in (0, 0.5, 1)],
    }


def dash_pattern(index: int) -> int:
    """Return the number of a recipe's dash pattern and marker shape, densest pattern first."""
    return (index + index // COLOURS) % DASH_PATTERNS


def css_classes(index: int) -> str:
    """Return the CSS classes of a recipe's curves and marker: colour and dash pattern."""
    return f"s{index % COLOURS} d{dash_pattern(index)}"


def marker_path(index: int, x: float, y: float) -> str:
    """Return a recipe's marker, centred at a point, as the ``d`` attribute of a path.

    Parameters
    ----------
    index
        Number of the recipe; it determines the shape.
    x, y
        The centre, in SVG units.
    """
    shapes: Sequence[Sequence[tuple[float, float]]] = (
        [(math.cos(k * math.pi / 8), math.sin(k * math.pi / 8)) for k in range(16)],
        [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
    )
    corners = [f"{x + 5 * a:.1f} {y + 5 * b:.1f}" for a, b in shapes[dash_pattern(index)]]
    return f"M{'L'.join(corners)}Z"


def _step_curve(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Curve:
    """Return a step function from (0, 0) that jumps to each y at its x, and ends at (1, 1)."""
    corners = np.repeat(np.concatenate([[0.0], y]), 2)
    return Curve(np.concatenate([[0.0], np.repeat(x, 2), [1.0, 1.0]]), np.append(corners, 1.0))


def _nonempty_range(low: float, high: float) -> tuple[float, float]:
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-300):
        return low, high
    half = max(0.5, 1e-6 * abs(high))
    return low - half, high + half
