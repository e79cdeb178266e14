"""Comparison of several recipes, for `evaluate`."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_plugin.errors import OptionError, PluginError
from patchcore_plugin.evaluation.published_results import NOTE, load_published_results
from patchcore_plugin.plugins.manager import Host

from .console import format_decimal, print_table
from .evaluation import QUALITY, EvaluationRun
from .options import DetectorOptions

if TYPE_CHECKING:
    from patchcore_plugin.evaluation.comparison import Comparison

COLUMNS = {
    **QUALITY,
    "fit s/image": ("fit_seconds_per_image", 3),
    "s/image": ("predict_seconds_per_image", 3),
    "peak MiB": ("peak_memory_bytes", 0),
    "GPU MiB": ("peak_gpu_memory_bytes", 0),
    "bank": ("bank_rows", 0),
}
"""Heading of each column of the table: metric and decimals."""


def compare_recipes(
    run: EvaluationRun, recipes: Mapping[str, DetectorOptions], *, fresh: bool, published: bool
) -> Comparison:
    """Compare recipes, and write a report for each and one for all.

    Parameters
    ----------
    run
        Data and output.
    recipes
        The recipes by name.
    fresh
        Whether to discard the stored results of an earlier run.
    published
        Whether to add published results.

    Raises
    ------
    OptionError
        If an option of a recipe is invalid.
    PluginError
        If no recipe can run, because components are missing.
    """
    resolved = _resolve(recipes, run.plugins.create_host())
    from patchcore_plugin.evaluation.comparison import Candidate, compare
    from patchcore_plugin.evaluation.report.comparison import write_comparison
    from patchcore_plugin.evaluation.report.page import write_report
    from patchcore_plugin.evaluation.results import write_json

    from .isolation import Job, run_isolated

    setup = _describe_setup(next(iter(recipes.values())), run.plugins.create_host())
    try:
        comparison = compare(
            run.categories,
            [
                Candidate(name, recipe, {**setup, "on_error": run.on_error}, reason)
                for name, (recipe, reason) in resolved.items()
            ],
            run.out,
            lambda candidate, category, folder: run_isolated(
                Job(recipes[candidate.name], run.plugins, candidate.name, category, folder, run.on_error), run.progress
            ),
            fresh=fresh,
            note=run.progress.note,
            setup=setup,
            published=load_published_results() if published else (),
        )
    except KeyboardInterrupt:
        run.progress.note("interrupted; finished results are stored, run the same command again to resume")
        raise
    for entry in comparison.entries:
        if entry.results:
            folder = run.out / entry.candidate.folder
            write_json(folder / "metrics.json", entry.evaluation.to_json())
            write_report(entry.evaluation, folder / "report.html", f"PatchCore evaluation: {entry.candidate.name}")
    write_comparison(comparison, run.out / "report.html")
    return comparison


def _resolve(recipes: Mapping[str, DetectorOptions], host: Host) -> dict[str, tuple[dict[str, Any], str | None]]:
    """Return each recipe with all options, or the reason why a component of it is not available."""
    resolved: dict[str, tuple[dict[str, Any], str | None]] = {}
    for name, options in recipes.items():
        try:
            resolved[name] = options.load_recipe().resolve(host, options.seed).to_dict(), None
        except PluginError as error:
            resolved[name] = {}, str(error)
        except OptionError as error:
            raise OptionError(
                f"recipe {name!r}: {error}; to set an option of one recipe only, use --set RECIPE:ROLE.OPTION=VALUE"
            ) from error
    reasons = [reason for _, reason in resolved.values() if reason]
    if len(reasons) == len(resolved):
        raise PluginError(reasons[0])
    return resolved


def _describe_setup(options: DetectorOptions, host: Host) -> dict[str, Any]:
    """Return everything except recipe and images that metrics and times depend on; the same for all recipes."""
    import torch

    gpu = torch.cuda.is_available() and not options.device.startswith("cpu")
    kernels = {
        component.spec.name: component.spec.kernels("cuda" if gpu else "cpu")
        for component in host.components()
        if component.spec.kernels is not None
    }
    software = {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy")
    }
    return {
        "seed": options.seed,
        "device": options.device,
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "precision": options.precision or "fp32",
        "threads": torch.get_num_threads(),
        "software": software,
        "plugins": {plugin.distribution: plugin.version for plugin in host.plugins if plugin.status == "loaded"},
        "kernels": kernels,
    }


def print_comparison(comparison: Comparison, out: Path) -> None:
    """Print the mean metrics of each recipe if there are several categories, and those of each category."""
    total = len(comparison.categories)
    if total > 1:
        rows = [
            [
                entry.candidate.name,
                f"{len(entry.results)} of {total}",
                *_format_cells(entry.mean if entry.results else None, entry.has_no_maps),
            ]
            for entry in comparison.entries
        ]
        _print_metrics(["recipe", "mean of"], rows)
        print()
    rows = []
    for category in comparison.categories:
        for entry in comparison.entries:
            result = entry.results.get(category)
            metrics = None if result is None else entry.metrics(category)
            has_no_maps = result is not None and result.has_no_maps
            rows.append([category, entry.candidate.name, *_format_cells(metrics, has_no_maps)])
    _print_metrics(["category", "recipe"], rows)
    for line in comparison.reasons:
        print(f"failed   {line}")
    if comparison.published:
        print(f"\n{NOTE}")
        rows = [
            [
                row.method,
                *(format_decimal(value, 3) for value in (row.image_auroc, row.pixel_auroc, row.aupro)),
                row.source,
            ]
            for row in comparison.published
        ]
        print_table(["published", "image AUROC", "pixel AUROC", "AUPRO", "source"], rows)
    print(f"written  {out / 'comparison.json'}, {out / 'report.html'}")


def _print_metrics(first: list[str], rows: list[list[str]]) -> None:
    """Print a table, without the column for GPU memory if no GPU was used."""
    columns = [*first, *COLUMNS]
    visible = [i for i, name in enumerate(columns) if name != "GPU MiB" or any(row[i] != "-" for row in rows)]
    print_table([columns[i] for i in visible], [[row[i] for i in visible] for row in rows])


def _format_cells(metrics: Mapping[str, float | None] | None, has_no_maps: bool) -> list[str]:
    if metrics is None:
        return ["failed", *["-"] * (len(COLUMNS) - 1)]
    cells = []
    for key, digits in COLUMNS.values():
        value = metrics[key]
        if value is not None and key.endswith("_bytes"):
            value /= 2**20
        cells.append("no map" if has_no_maps and key in ("pixel_auroc", "aupro") else format_decimal(value, digits))
    return cells
