"""Several recipes in one `patchcore evaluate`: a comparison and its report."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from patchcore_plugin.errors import OptionError, PluginError
from patchcore_plugin.evaluation.published_results import NOTE, load_published_results
from patchcore_plugin.plugins.manager import Host

from . import setup
from .console import Reporter, number, print_table

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category
    from patchcore_plugin.evaluation.comparison import Comparison

COLUMNS: Mapping[str, Callable[[Mapping[str, float | None]], str]] = {
    "image AUROC": lambda figures: number(figures["image_auroc"]),
    "AP": lambda figures: number(figures["image_ap"]),
    "F1-max": lambda figures: number(figures["image_f1_max"]),
    "pixel AUROC": lambda figures: number(figures["pixel_auroc"]),
    "AUPRO": lambda figures: number(figures["aupro"]),
    "fit s/image": lambda figures: number(figures["fit_seconds_per_image"], 3),
    "s/image": lambda figures: number(figures["predict_seconds_per_image"], 3),
    "peak MiB": lambda figures: _mebibytes(figures["peak_memory_bytes"]),
    "GPU MiB": lambda figures: _mebibytes(figures["peak_gpu_memory_bytes"]),
    "bank": lambda figures: number(figures["bank_rows"], 0),
}


def run(
    categories: list[Category],
    wanted: Mapping[str, setup.Setup],
    blocked: setup.Blocked,
    out: Path,
    on_error: Literal["stop", "skip"],
    progress: Reporter,
    *,
    fresh: bool,
    published: bool,
) -> Comparison:
    """Compare the recipes, and write a report of each beside that of all.

    Parameters
    ----------
    wanted
        The recipes by name.
    """
    found = _resolved(wanted, blocked.host())
    from patchcore_plugin.evaluation.comparison import Candidate, compare
    from patchcore_plugin.evaluation.report.comparison import write_comparison
    from patchcore_plugin.evaluation.report.page import write_report
    from patchcore_plugin.evaluation.results import write_json

    from .pair import Pair, measure

    same = _same_for_all(wanted, blocked.host())
    comparison = compare(
        categories,
        [Candidate(name, recipe, {**same, "on_error": on_error}, reason) for name, recipe, reason in found],
        out,
        lambda candidate, category, place: measure(
            Pair(wanted[candidate.name], blocked, candidate.name, category, place, on_error), progress
        ),
        fresh=fresh,
        note=progress.note,
        setup=same,
        published=load_published_results() if published else (),
    )
    for entry in comparison.entries:
        if entry.results:
            folder = out / entry.candidate.folder
            write_json(folder / "metrics.json", entry.evaluation.to_json())
            write_report(entry.evaluation, folder / "report.html", f"PatchCore evaluation: {entry.candidate.name}")
    write_comparison(comparison, out / "report.html")
    return comparison


def _resolved(wanted: Mapping[str, setup.Setup], host: Host) -> list[tuple[str, dict[str, Any], str | None]]:
    """Return the recipes with all options; what is misspelt ends here, what is not installed gets its reason."""
    found: list[tuple[str, dict[str, Any], str | None]] = []
    for name, each in wanted.items():
        try:
            found.append((name, each.load().resolved(host, each.seed).to_dict(), None))
        except PluginError as error:
            found.append((name, {}, str(error)))
        except OptionError as error:
            raise OptionError(
                f"recipe {name!r}: {error}; to set an option of one recipe only: --set RECIPE:PART.OPTION=VALUE"
            ) from error
    if all(reason for _, _, reason in found):
        raise PluginError(found[0][2])
    return found


def _same_for_all(wanted: Mapping[str, setup.Setup], host: Host) -> dict[str, Any]:
    """Return what figures and seconds depend on besides recipe and images."""
    import torch

    one = next(iter(wanted.values()))
    gpu = torch.cuda.is_available() and not one.device.startswith("cpu")
    kernels = {
        component.spec.name: component.spec.kernels("cuda" if gpu else "cpu")
        for component in host.components()
        if component.spec.kernels is not None
    }
    software = {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy")
    }
    return {
        "seed": one.seed,
        "device": one.device,
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "precision": one.precision or "fp32",
        "threads": torch.get_num_threads(),
        "software": software,
        "plugins": {plugin.distribution: plugin.version for plugin in host.plugins if plugin.status == "loaded"},
        "kernels": kernels,
    }


def show(comparison: Comparison, out: Path) -> None:
    """Print the means, and the figures of each category where there are several."""
    total = len(comparison.categories)
    if total > 1:
        rows = [
            [
                entry.candidate.name,
                f"{len(entry.results)} of {total}",
                *_texts(entry.mean if entry.results else None, entry.has_no_maps),
            ]
            for entry in comparison.entries
        ]
        _print(["recipe", "mean of"], rows)
        print()
    rows = []
    for category in comparison.categories:
        for entry in comparison.entries:
            result = entry.results.get(category)
            figures = None if result is None else entry.metrics(category)
            rows.append([category, entry.candidate.name, *_texts(figures, result is not None and result.has_no_maps)])
    _print(["category", "recipe"], rows)
    for line in comparison.reasons:
        print(f"failed   {line}")
    if comparison.published:
        print(f"\n{NOTE}")
        rows = [
            [
                each.method,
                *(number(value, 3) for value in (each.image_auroc, each.pixel_auroc, each.aupro)),
                each.source,
            ]
            for each in comparison.published
        ]
        print_table(["published", "image AUROC", "pixel AUROC", "AUPRO", "source"], rows)
    print(f"written  {out / 'comparison.json'}, {out / 'report.html'}")


def _print(first: list[str], rows: list[list[str]]) -> None:
    columns = [*first, *COLUMNS]
    # No GPU, no column for it.
    shown = [i for i, name in enumerate(columns) if name != "GPU MiB" or any(row[i] != "-" for row in rows)]
    print_table([columns[i] for i in shown], [[row[i] for i in shown] for row in rows])


def _texts(figures: Mapping[str, float | None] | None, has_no_maps: bool) -> list[str]:
    if figures is None:
        return ["failed", *["-"] * (len(COLUMNS) - 1)]
    texts = {name: text(figures) for name, text in COLUMNS.items()}
    if has_no_maps:
        texts |= {"pixel AUROC": "no map", "AUPRO": "no map"}
    return list(texts.values())


def _mebibytes(value: float | None) -> str:
    return number(None if value is None else value / 2**20, 0)
