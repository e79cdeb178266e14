"""Figures as a report shows them: headings, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from patchcore_plugin.evaluation.metrics import AUPRO_LIMIT

MISSING = "n/a"
NO_MAP = "no map"

HEADINGS = {
    "image_auroc": "Image AUROC",
    "image_ap": "Image AP",
    "image_f1_max": "Image F1-max",
    "pixel_auroc": "Pixel AUROC",
    "aupro": f"AUPRO to {AUPRO_LIMIT:g}",
    "false_alarm_rate": "False alarms",
    "detection_rate": "Defects found",
    "fit_seconds": "Fit",
    "fit_seconds_per_image": "Fit, per image",
    "predict_seconds_per_image": "Per image",
    "peak_memory_bytes": "Peak memory",
    "peak_gpu_memory_bytes": "Peak GPU memory",
    "bank_rows": "Bank rows",
    "covering_radius": "Covering radius",
}
"""What each figure is called."""


def cells(figures: Mapping[str, float | None], keys: Iterable[str], *, has_no_maps: bool = False) -> dict[str, str]:
    """Return the figures of those keys as text; those by pixel say so where a method gives no maps."""
    texts = {key: _FORMS[key](figures[key]) for key in keys}
    return texts | {key: NO_MAP for key in ("pixel_auroc", "aupro") if has_no_maps and key in texts}


def ratio(value: float | None) -> str:
    """Return a figure between 0 and 1."""
    return MISSING if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Return a share; 100% is all, and not nearly all."""
    if value is None:
        return MISSING
    rounded = f"{100 * value:.3g}%"
    return f"{math.floor(value * 1e4) / 100:g}%" if value < 1 and rounded == "100%" else rounded


def seconds(value: float | None) -> str:
    """Return a time."""
    if value is None:
        return MISSING
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:,.1f} s"


def number(value: float | None) -> str:
    """Return a number of unknown magnitude with four significant digits and no exponent where it can be."""
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


_FORMS: Mapping[str, Callable[[float | None], str]] = {
    **dict.fromkeys(("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "aupro"), ratio),
    **dict.fromkeys(("false_alarm_rate", "detection_rate"), percent),
    **dict.fromkeys(("fit_seconds", "fit_seconds_per_image", "predict_seconds_per_image"), seconds),
    **dict.fromkeys(("peak_memory_bytes", "peak_gpu_memory_bytes"), _size),
    "bank_rows": _count,
    "covering_radius": number,
}
