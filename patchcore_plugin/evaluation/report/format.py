"""Metrics as text: headings, and numbers with units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from patchcore_plugin.evaluation.metrics.pixel import AUPRO_LIMIT

MISSING = "n/a"
NO_MAP = "no map"

HEADINGS = {
    "image_auroc": "Image AUROC",
    "image_ap": "Image AP",
    "image_f1_max": "Image F1-max",
    "pixel_auroc": "Pixel AUROC",
    "aupro": f"AUPRO (FPR\u00a0≤\u00a0{AUPRO_LIMIT:g})",
    "false_alarm_rate": "False alarms",
    "detection_rate": "Defects detected",
    "fit_seconds": "Fit time",
    "fit_seconds_per_image": "Fit time per image",
    "predict_seconds_per_image": "Prediction time per image",
    "peak_memory_bytes": "Peak memory",
    "peak_gpu_memory_bytes": "Peak GPU memory",
    "bank_rows": "Memory bank rows",
    "covering_radius": "Covering radius",
}
"""Heading of each metric."""


def cells(metrics: Mapping[str, float | None], keys: Iterable[str], *, has_no_maps: bool = False) -> dict[str, str]:
    """Format metrics as the cells of a table row.

    Parameters
    ----------
    metrics
        Values by key.
    keys
        Keys of the columns.
    has_no_maps
        Whether the method gives no anomaly maps, so that the pixel-level cells say so.

    Returns
    -------
    dict of str to str
        Text by key.

    Examples
    --------
    >>> cells({"aupro": 0.9251, "fit_seconds": 0.25}, ["aupro", "fit_seconds"])
    {'aupro': '0.925', 'fit_seconds': '250 ms'}
    """
    texts = {key: _FORMATS[key](metrics[key]) for key in keys}
    return texts | {key: NO_MAP for key in ("pixel_auroc", "aupro") if has_no_maps and key in texts}


def ratio(value: float | None) -> str:
    """Format a metric from 0 to 1 with three decimals."""
    return MISSING if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Format a share as a percentage; only an exact 1 becomes 100%."""
    if value is None:
        return MISSING
    rounded = f"{100 * value:.3g}%"
    return f"{math.floor(value * 1e4) / 100:g}%" if value < 1 and rounded == "100%" else rounded


def seconds(value: float | None) -> str:
    """Format a duration in milliseconds or seconds."""
    if value is None:
        return MISSING
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:,.1f} s"


def number(value: float | None) -> str:
    """Format a number of any magnitude with four significant digits, without an exponent if possible.

    Examples
    --------
    >>> number(3.14159), number(123456), number(2e9)
    ('3.142', '123,456', '2e+09')
    """
    if value is None:
        return MISSING
    if value == 0 or not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def _size(value: float | None) -> str:
    return MISSING if value is None else f"{value / 2**20:,.0f} MiB"


_FORMATS: Mapping[str, Callable[[float | None], str]] = {
    **dict.fromkeys(("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "aupro"), ratio),
    **dict.fromkeys(("false_alarm_rate", "detection_rate"), percent),
    **dict.fromkeys(("fit_seconds", "fit_seconds_per_image", "predict_seconds_per_image"), seconds),
    **dict.fromkeys(("peak_memory_bytes", "peak_gpu_memory_bytes"), _size),
    "bank_rows": _count,
    "covering_radius": number,
}
