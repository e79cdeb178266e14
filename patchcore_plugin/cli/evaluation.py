"""Evaluation of one recipe, for `evaluate` and `demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .console import Reporter, format_decimal, print_table
from .options import DetectorOptions, PluginFilter

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category
    from patchcore_plugin.evaluation.results import Evaluation


QUALITY = {
    "image AUROC": ("image_auroc", 4),
    "AP": ("image_ap", 4),
    "F1-max": ("image_f1_max", 4),
    "pixel AUROC": ("pixel_auroc", 4),
    "AUPRO": ("aupro", 4),
}
COLUMNS = {
    **QUALITY,
    "false alarms": ("false_alarm_rate", 3),
    "detected": ("detection_rate", 3),
    "fit s": ("fit_seconds", 1),
    "s/image": ("predict_seconds_per_image", 3),
    "bank": ("bank_rows", 0),
    "radius": ("covering_radius", 3),
}
"""Heading of each column of the table: metric and decimals."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """Base of the evaluation of one recipe and the comparison of several.

    Parameters
    ----------
    categories
        The data sets.
    out
        Folder for metrics, reports and images.
    plugins
        Plugins that the user excluded.
    progress
        Where to show progress.
    on_error
        How to handle an unreadable image.
    """

    categories: list[Category]
    out: Path
    plugins: PluginFilter
    progress: Reporter
    on_error: Literal["stop", "skip"]


def evaluate_recipe(run: EvaluationRun, options: DetectorOptions) -> Evaluation:
    """Evaluate a recipe on all categories, and write ``metrics.json`` and ``report.html``.

    Raises
    ------
    PatchcoreError
        If the recipe is invalid, or a category cannot be evaluated.
    """
    host = run.plugins.create_host()
    resolved = options.load_recipe().resolve(host, options.seed)
    from patchcore_plugin.evaluation.measurement import evaluate
    from patchcore_plugin.evaluation.report.page import write_report

    evaluation = evaluate(
        run.categories,
        lambda: options.create_detector(host),
        run.out,
        on_error=run.on_error,
        progress=run.progress,
        recipe=resolved.to_dict(),
    )
    write_report(evaluation, run.out / "report.html")
    return evaluation


def print_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Print the metrics of each category, and their mean if there are several."""
    figures = [(category.name, category.metrics) for category in evaluation.categories]
    if len(figures) > 1:
        figures.append(("mean", evaluation.mean))
    rows = [
        [name, *(format_decimal(metrics[key], digits) for key, digits in COLUMNS.values())] for name, metrics in figures
    ]
    print_table(["category", *COLUMNS], rows)
    print("false alarms, detected: share of good and of defective test images above the model's threshold")
    print(f"written  {out / 'metrics.json'}, {out / 'report.html'}")
