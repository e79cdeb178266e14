"""One self-contained page that shows recipes side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from patchcore_plugin.evaluation.compare import Comparison, Entry
from patchcore_plugin.evaluation.metrics import AUPRO_LIMIT, Curve
from patchcore_plugin.evaluation.published import NOTE
from patchcore_plugin.evaluation.results import COMPARED, CategoryResult, write_text

from . import charts as plots
from .format import HEADINGS, MISSING, cells, number, ratio
from .page import flat, render

CURVES = (
    ("ROC", "image", "roc", "image_auroc", "False positive rate", "True positive rate", 1.0),
    ("Precision and recall", "image", "pr", "image_ap", "Recall", "Precision", 1.0),
    ("ROC of pixels", "pixel", "roc", "pixel_auroc", "False positive rate", "True positive rate", 1.0),
    (
        "Overlap per defect region",
        "pixel",
        "pro",
        "aupro",
        "False positive rate of pixels",
        "Mean overlap",
        AUPRO_LIMIT,
    ),
)
"""Title, level, curve, its figure, the axes' names, and the largest abscissa."""


def write_comparison(comparison: Comparison, path: Path, title: str = "Comparison of recipes") -> None:
    """Write the page, UTF-8 HTML, replacing an older one at once.

    Parameters
    ----------
    comparison
        What `compare` returned.
    path
        The file to write; the recipes' own reports are linked as lying in folders beside it.
    title
        Heading of the page.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    gpu = any(entry.mean["peak_gpu_memory_bytes"] is not None for entry in comparison.entries)
    keys = [key for key in COMPARED if gpu or key != "peak_gpu_memory_bytes"]
    names = [entry.contender.name for entry in comparison.entries]
    speed, left_out = _speed(comparison)
    page = render(
        "comparison.html.j2",
        title=title,
        headings={key: HEADINGS[key] for key in keys},
        total=len(comparison.categories),
        recipes=[_row(entry, entry.mean if entry.results else None, keys) for entry in comparison.entries],
        incomplete=any(entry.reasons for entry in comparison.entries),
        without_maps=[entry.contender.name for entry in comparison.entries if entry.has_no_maps],
        reasons=comparison.reasons,
        unusable=comparison.unusable,
        published=[(each, cells(_all(each.to_json()), keys)) for each in comparison.published],
        note=NOTE,
        setup=list(flat(comparison.setup)),
        speed=speed,
        left_out=left_out,
        names=names,
        style=plots.style,
        mark=plots.mark,
        missing=MISSING,
        categories=[_category(comparison, name, keys) for name in comparison.categories],
        box=plots.Box(),
        limit=AUPRO_LIMIT,
    )
    write_text(path, page)


def _all(figures: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(COMPARED) | figures


def _row(entry: Entry, figures: dict[str, float | None] | None, keys: list[str]) -> dict[str, Any]:
    return {
        "name": entry.contender.name,
        "summary": entry.contender.recipe.get("summary", ""),
        "link": f"{entry.contender.folder}/report.html" if entry.results else None,
        "done": len(entry.results),
        "cells": None if figures is None else cells(figures, keys, has_no_maps=entry.has_no_maps),
        "reason": "; ".join(dict.fromkeys(entry.reasons.values())),
    }


def _speed(comparison: Comparison) -> tuple[dict[str, Any] | None, list[str]]:
    points, left_out = {}, []
    for index, entry in enumerate(comparison.entries):
        seconds, aupro = entry.mean["predict_seconds_per_image"], entry.mean["aupro"]
        if seconds and aupro is not None:
            points[index] = seconds, aupro
        else:
            left_out.append(entry.contender.name)
    return plots.speed_chart(points), left_out


def _category(comparison: Comparison, name: str, keys: list[str]) -> dict[str, Any]:
    rows, results = [], []
    for index, entry in enumerate(comparison.entries):
        result = entry.results.get(name)
        rows.append(
            {
                "name": entry.contender.name,
                "cells": result and cells(entry.figures(name), keys, has_no_maps=result.has_no_maps),
                "reason": entry.reasons.get(name, ""),
            }
        )
        if result is not None:
            results.append((index, result))
    one = results[0][1] if results else None
    return {
        "name": name,
        "good": one and sum(not image.is_anomalous for image in one.images),
        "bad": one and sum(image.is_anomalous for image in one.images),
        "rows": rows,
        "curves": [chart for spec in CURVES if (chart := _curves(results, *spec))],
        "histograms": [(index, chart) for index, result in results if (chart := _histogram(result))],
    }


def _curves(
    results: list[tuple[int, CategoryResult]],
    title: str,
    level: str,
    curve: str,
    figure: str,
    x_label: str,
    y_label: str,
    x_max: float,
) -> dict[str, Any] | None:
    lines, drawn = [], []
    for index, result in results:
        found: Curve | None = getattr(getattr(result, level), curve)
        if found is not None:
            lines.append((index, ratio(result.metrics[figure])))
            drawn.append((index, plots.Box().points(plots.cut(found, x_max), x_max)))
    if not lines:
        return None
    # Where curves coincide, the gaps of those above show those below.
    drawn.sort(key=lambda each: plots.pattern(each[0]))
    return {
        "title": title,
        "figure": HEADINGS[figure],
        "lines": lines,
        "drawn": drawn,
        "x_label": x_label,
        "y_label": y_label,
        "x_max": x_max,
        "chance": curve == "roc",
    }


def _histogram(result: CategoryResult) -> dict[str, Any] | None:
    scores = np.array([image.score for image in result.images])
    bad = np.array([image.is_anomalous for image in result.images], dtype=bool)
    chart = plots.histogram(scores, bad, result.threshold)
    return chart and {**chart, "mark": None if result.threshold is None else number(result.threshold)}
