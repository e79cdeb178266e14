"""Metrics, evaluation of detectors on labelled data sets, comparison of recipes, and HTML reports.

Nothing is imported before its first use, so that listings and ``--help`` load neither OpenCV nor scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import Candidate, Comparison, compare
    from .measurement import evaluate, evaluate_category
    from .metrics.curve import Curve
    from .metrics.image import ImageMetrics, image_metrics
    from .metrics.pixel import PixelMetrics, PixelScores, pixel_metrics
    from .report.comparison import write_comparison
    from .report.page import write_report
    from .results import CategoryResult, Evaluation

__all__ = [
    "Candidate",
    "CategoryResult",
    "Comparison",
    "Curve",
    "Evaluation",
    "ImageMetrics",
    "PixelMetrics",
    "PixelScores",
    "compare",
    "evaluate",
    "evaluate_category",
    "image_metrics",
    "pixel_metrics",
    "write_comparison",
    "write_report",
]

_MODULES = {
    **dict.fromkeys(("Candidate", "Comparison", "compare"), "comparison"),
    **dict.fromkeys(("evaluate", "evaluate_category"), "measurement"),
    "Curve": "metrics.curve",
    **dict.fromkeys(("ImageMetrics", "image_metrics"), "metrics.image"),
    **dict.fromkeys(("PixelMetrics", "PixelScores", "pixel_metrics"), "metrics.pixel"),
    "write_comparison": "report.comparison",
    "write_report": "report.page",
    **dict.fromkeys(("CategoryResult", "Evaluation"), "results"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
