"""Pictures for the page, as files in memory: the image, its heat, the outlines of its regions, and a histogram."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchcore_plugin.data.images import to_8_bit
from patchcore_plugin.data.types import Rgb
from patchcore_plugin.inference.rendering import heat_map
from patchcore_plugin.models.regions import find_regions

BINS = 28
_WIDTH, _HEIGHT, _BASE, _TOP = 320.0, 132.0, 96.0, 14.0


def jpeg(image: NDArray[Any], side: int) -> bytes:
    """Return an image [H, W, 3] as a JPEG file whose longer side has no more than `side` pixels."""
    pixels = _smaller(to_8_bit(image), side)
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return encoded.tobytes()


def heat(anomaly_map: NDArray[np.float32], scale: tuple[float, float], side: int) -> bytes:
    """Return the heat of a map [H, W] as a PNG file that lies over the image: what is not above the scale is clear."""
    values = _smaller(anomaly_map, side)
    low, high = scale
    share = np.clip((np.nan_to_num(values, nan=high) - low) / max(high - low, 1e-12), 0, 1)
    alpha = np.rint(255 * share).astype(np.uint8)
    bgra = np.dstack([heat_map(values, scale)[..., ::-1], alpha])
    _, encoded = cv2.imencode(".png", bgra, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    return encoded.tobytes()


def png(pixels: Rgb) -> bytes:
    """Return a picture [H, W, 3] as a PNG file."""
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))
    return encoded.tobytes()


def outlines(anomaly_map: NDArray[np.float32], above: float) -> bytes:
    """Return the outlines of the regions of a map [H, W] as an SVG file that lies over the image."""
    height, width = anomaly_map.shape
    contours = ("L".join(f"{x} {y}" for x, y in each.contour) for each in find_regions(anomaly_map, above))
    paths = "".join(f'<path d="M{contour}Z"/>' for contour in contours)
    stroke = 'fill="none" stroke-linejoin="round" vector-effect="non-scaling-stroke"'
    # A dark line below a light one is seen on any image.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>path{{vector-effect:non-scaling-stroke}}</style>"
        f'<g {stroke} stroke="#000" stroke-opacity=".65" stroke-width="4">{paths}</g>'
        f'<g {stroke} stroke="#fff" stroke-width="1.75">{paths}</g></svg>'
    ).encode()


def span(values: Iterable[float]) -> tuple[float, float]:
    """Return a range that holds all values and a margin; 0 to 1 for none."""
    known = list(values)
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def histogram(
    good: Sequence[float],
    judged: Sequence[tuple[float, bool | None]],
    threshold: float | None,
    limits: tuple[float, float],
) -> str:
    """Return a histogram of good images' scores as SVG, with marks for the judged images, and a threshold.

    Parameters
    ----------
    good
        Scores of good images.
    judged
        Score and verdict of each image.
    threshold
        Where the line is; None for none.
    limits
        Scores at the left and at the right end.
    """
    low, high = limits
    unit = _WIDTH / (high - low)

    def x(score: float) -> float:
        return min(max((score - low) * unit, 0.0), _WIDTH)

    counts, edges = np.histogram(good, bins=BINS, range=limits)
    most = max(int(counts.max()), 1)
    bars = "".join(
        f'<rect x="{x(left) + 0.5:.1f}" y="{_BASE - (_BASE - _TOP) * count / most:.1f}" '
        f'width="{_WIDTH / BINS - 1:.1f}" height="{(_BASE - _TOP) * count / most:.1f}"/>'
        for left, count in zip(edges, counts, strict=False)
        if count
    )
    marks = "".join(
        f'<path class="{_KIND[verdict]}" d="M{x(score):.1f} {_BASE + 5:.1f}l4.5 9h-9z"/>' for score, verdict in judged
    )
    line = ""
    if threshold is not None:
        at = x(threshold)
        line = f'<path class="pc-line" d="M{at:.1f} 4V{_BASE + 18:.1f}"/>'
    defects = sum(verdict is True for _, verdict in judged)
    text = (
        f"Scores of {len(good)} good images, as a histogram; {len(judged)} judged images, {defects} above the threshold"
    )
    return (
        f'<svg class="pc-histogram" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{text}">'
        f'<g class="pc-bars">{bars}</g><path class="pc-axis" d="M0 {_BASE:g}H{_WIDTH:g}"/>{marks}{line}'
        f'<text x="0" y="{_HEIGHT - 4:g}">{low:.3g}</text>'
        f'<text x="{_WIDTH / 2:g}" y="{_HEIGHT - 4:g}" text-anchor="middle">score</text>'
        f'<text x="{_WIDTH:g}" y="{_HEIGHT - 4:g}" text-anchor="end">{high:.3g}</text></svg>'
    )


_KIND = {True: "pc-defect", False: "pc-good", None: "pc-none"}


def _smaller(pixels: NDArray[Any], side: int) -> NDArray[Any]:
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
