"""HTML report of a comparison: one self-contained file with all recipes side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcore_plugin.evaluation.comparison import Comparison, Entry
from patchcore_plugin.evaluation.metrics.curve import Curve
from patchcore_plugin.evaluation.metrics.pixel import AUPRO_LIMIT
from patchcore_plugin.evaluation.published_results import NOTE
from patchcore_plugin.evaluation.results import COMPARISON_METRICS, CategoryResult, write_text

from . import charts
from .format import HEADINGS, MISSING, cells, number, ratio
from .page import flatten, render


class _CurveChart(NamedTuple):
    """Title of a chart, the curve's place in a `CategoryResult`, its metric, and the axes."""

    title: str
    level: str
    curve: str
    metric: str
    x_label: str
    y_label: str
    x_max: float = 1.0


CURVE_CHARTS = (
    _CurveChart("Image ROC", "image", "roc", "image_auroc", "False positive rate", "True positive rate"),
    _CurveChart("Image precision and recall", "image", "pr", "image_ap", "Recall", "Precision"),
    _CurveChart("Pixel ROC", "pixel", "roc", "pixel_auroc", "False positive rate", "True positive rate"),
    _CurveChart(
        *("Per-region overlap (PRO)", "pixel", "pro", "aupro", "Pixel false positive rate", "Mean per-region overlap"),
        x_max=AUPRO_LIMIT,
    ),
)


def write_comparison(comparison: Comparison, path: Path, title: str = "Comparison of recipes") -> None:
    """Write the report as UTF-8 HTML, atomically.

    Parameters
    ----------
    comparison
        Results from `compare`.
    path
        The file; an existing one is replaced. It links to ``<recipe>/report.html`` in the same folder.
    title
        Heading of the page.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    has_gpu = any(entry.mean["peak_gpu_memory_bytes"] is not None for entry in comparison.entries)
    keys = [key for key in COMPARISON_METRICS if has_gpu or key != "peak_gpu_memory_bytes"]
    speed, omitted = _speed_chart(comparison)
    page = render(
        "comparison.html.j2",
        title=title,
        headings={key: HEADINGS[key] for key in keys},
        total=len(comparison.categories),
        recipes=[_row(entry, keys) for entry in comparison.entries],
        incomplete=any(entry.reasons for entry in comparison.entries),
        without_maps=[entry.candidate.name for entry in comparison.entries if entry.has_no_maps],
        reasons=comparison.reasons,
        unusable=comparison.unusable,
        published=[
            (result, cells(dict.fromkeys(COMPARISON_METRICS) | result.to_json(), keys))
            for result in comparison.published
        ],
        note=NOTE,
        setup=list(flatten(comparison.setup)),
        speed=speed,
        omitted=omitted,
        names=[entry.candidate.name for entry in comparison.entries],
        css_classes=charts.css_classes,
        marker_path=charts.marker_path,
        missing=MISSING,
        categories=[_category(comparison, name, keys) for name in comparison.categories],
        box=charts.Box(),
        limit=AUPRO_LIMIT,
    )
    write_text(path, page)


def _row(entry: Entry, keys: list[str]) -> dict[str, Any]:
    return {
        "name": entry.candidate.name,
        "link": f"{entry.candidate.folder}/report.html" if entry.results else None,
        "done": len(entry.results),
        "cells": cells(entry.mean, keys, has_no_maps=entry.has_no_maps) if entry.results else None,
        "reason": "; ".join(dict.fromkeys(entry.reasons.values())),
    }


def _speed_chart(comparison: Comparison) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the chart, and the names of the recipes that are not in it."""
    points, omitted = {}, []
    for index, entry in enumerate(comparison.entries):
        seconds, aupro = entry.mean["predict_seconds_per_image"], entry.mean["aupro"]
        if seconds and aupro is not None:
            points[index] = seconds, aupro
        else:
            omitted.append(entry.candidate.name)
    return charts.speed_chart(points), omitted


def _category(comparison: Comparison, name: str, keys: list[str]) -> dict[str, Any]:
    rows, results = [], []
    for index, entry in enumerate(comparison.entries):
        result = entry.results.get(name)
        rows.append(
            {
                "name": entry.candidate.name,
                "cells": result and cells(entry.metrics(name), keys, has_no_maps=result.has_no_maps),
                "reason": entry.reasons.get(name, ""),
            }
        )
        if result is not None:
            results.append((index, result))
    images = results[0][1].images if results else None
    return {
        "name": name,
        "good": None if images is None else sum(not image.is_anomalous for image in images),
        "bad": None if images is None else sum(image.is_anomalous for image in images),
        "rows": rows,
        "curves": [chart for spec in CURVE_CHARTS if (chart := _curves(results, spec))],
        "histograms": [(index, chart) for index, result in results if (chart := _histogram(result))],
    }


def _curves(results: list[tuple[int, CategoryResult]], spec: _CurveChart) -> dict[str, Any] | None:
    legend, lines = [], []
    for index, result in results:
        curve: Curve | None = getattr(getattr(result, spec.level), spec.curve)
        if curve is not None:
            legend.append((index, ratio(result.metrics[spec.metric])))
            lines.append((index, charts.Box().points(charts.clip(curve, spec.x_max), spec.x_max)))
    if not legend:
        return None
    # Draw sparse dashes last: their gaps show the denser curves below.
    lines.sort(key=lambda line: charts.dash_pattern(line[0]))
    return {
        **spec._asdict(),
        "heading": HEADINGS[spec.metric],
        "legend": legend,
        "lines": lines,
        "has_diagonal": spec.curve == "roc",
    }


def _histogram(result: CategoryResult) -> dict[str, Any] | None:
    scores = np.array([image.score for image in result.images])
    defective = np.array([image.is_anomalous for image in result.images], dtype=bool)
    chart = charts.histogram(scores, defective, result.threshold)
    return chart and {**chart, "mark": None if result.threshold is None else number(result.threshold)}
