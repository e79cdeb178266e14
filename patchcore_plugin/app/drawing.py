"""Heat maps, region outlines and histograms as image files in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from patchcore_plugin.data.encoding import downscale, encode_png
from patchcore_plugin.inference.rendering import heat_map
from patchcore_plugin.models.regions import find_regions

BINS = 28
_WIDTH, _HEIGHT, _BASE, _TOP = 320.0, 132.0, 96.0, 14.0
_CLASSES = {True: "pc-defect", False: "pc-good", None: "pc-none"}


def encode_heat(anomaly_map: NDArray[np.float32], scale: tuple[float, float], side: int) -> bytes:
    """Return a heat map with transparency as a PNG file, to be shown on top of the image.

    Parameters
    ----------
    anomaly_map
        Anomaly scores, [H, W]; NaN is drawn as the highest value.
    scale
        Map values that are transparent and opaque; opacity is linear in between.
    side
        Longest side of the result, in pixels.
    """
    values = downscale(anomaly_map, side)
    low, high = scale
    share = np.clip((np.nan_to_num(values, nan=high) - low) / max(high - low, 1e-12), 0, 1)
    alpha = np.rint(255 * share).astype(np.uint8)
    return encode_png(np.dstack([heat_map(values, scale), alpha]), compression=3)


def draw_outlines(anomaly_map: NDArray[np.float32], threshold: float) -> bytes:
    """Return the outlines of the regions above a threshold of the map [H, W] as an SVG file."""
    height, width = anomaly_map.shape
    contours = ("L".join(f"{x} {y}" for x, y in region.contour) for region in find_regions(anomaly_map, threshold))
    paths = "".join(f'<path d="M{contour}Z"/>' for contour in contours)
    stroke = 'fill="none" stroke-linejoin="round" vector-effect="non-scaling-stroke"'
    # A dark line below a light one is visible on any image.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>path{{vector-effect:non-scaling-stroke}}</style>"
        f'<g {stroke} stroke="#000" stroke-opacity=".65" stroke-width="4">{paths}</g>'
        f'<g {stroke} stroke="#fff" stroke-width="1.75">{paths}</g></svg>'
    ).encode()


def axis_range(values: Iterable[float]) -> tuple[float, float]:
    """Return a range that contains all values with a margin; (0, 1) for no values.

    Examples
    --------
    >>> axis_range([0.0, 10.0])
    (-0.5, 10.5)
    """
    values = list(values)
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def draw_histogram(
    good: Sequence[float],
    images: Sequence[tuple[float, bool | None]],
    threshold: float | None,
    limits: tuple[float, float],
) -> str:
    """Return a histogram of the scores of good images as SVG, with a mark per image and a line at the threshold.

    Parameters
    ----------
    good
        Scores of good images.
    images
        Score of each scored image, and whether it is anomalous.
    threshold
        Score of the line; None for no line.
    limits
        Scores at the left and right ends of the axis.
    """
    low, high = limits
    unit = _WIDTH / (high - low)

    def x(score: float) -> float:
        return min(max((score - low) * unit, 0.0), _WIDTH)

    counts, edges = np.histogram(good, bins=BINS, range=limits)
    unit_height = (_BASE - _TOP) / max(int(counts.max()), 1)
    bars = "".join(
        f'<rect x="{x(left) + 0.5:.1f}" y="{_BASE - unit_height * count:.1f}" '
        f'width="{_WIDTH / BINS - 1:.1f}" height="{unit_height * count:.1f}"/>'
        for left, count in zip(edges, counts, strict=False)
        if count
    )
    marks = "".join(
        f'<path class="{_CLASSES[is_anomalous]}" d="M{x(score):.1f} {_BASE + 5:.1f}l4.5 9h-9z"/>'
        for score, is_anomalous in images
    )
    line = "" if threshold is None else f'<path class="pc-line" d="M{x(threshold):.1f} 4V{_BASE + 18:.1f}"/>'
    above = sum(is_anomalous is True for _, is_anomalous in images)
    text = f"Histogram of the scores of {len(good)} good images; {above} of {len(images)} images above the threshold"
    return (
        f'<svg class="pc-histogram" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{text}">'
        f'<g class="pc-bars">{bars}</g><path class="pc-axis" d="M0 {_BASE:g}H{_WIDTH:g}"/>{marks}{line}'
        f'<text x="0" y="{_HEIGHT - 4:g}">{low:.3g}</text>'
        f'<text x="{_WIDTH / 2:g}" y="{_HEIGHT - 4:g}" text-anchor="middle">score</text>'
        f'<text x="{_WIDTH:g}" y="{_HEIGHT - 4:g}" text-anchor="end">{high:.3g}</text></svg>'
    )
