"""`patchcore evaluate`: a labelled dataset to figures and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from patchcore_plugin.errors import DatasetError
from patchcore_plugin.host import Host

from . import setup
from .console import Reporter, number, print_json, print_table

if TYPE_CHECKING:
    from patchcore_plugin.datasets import Category
    from patchcore_plugin.results import Evaluation


def command(
    context: typer.Context,
    dataset: Annotated[
        Path, typer.Argument(help="A category in MVTec AD's layout, or a folder of several.", readable=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json, report.html and pictures.")],
    category: Annotated[
        list[str] | None, typer.Option("--category", help="Only this category; may be repeated.")
    ] = None,
    recipe: setup.RecipeOption = "patchcore",
    backbone: setup.BackboneOption = None,
    aggregator: setup.AggregatorOption = None,
    sampler: setup.SamplerOption = None,
    scorer: setup.ScorerOption = None,
    options: setup.SetOption = None,
    device: setup.DeviceOption = "auto",
    precision: setup.PrecisionOption = None,
    seed: setup.SeedOption = 0,
    on_error: setup.OnErrorOption = "skip",
    as_json: setup.JsonOption = False,
) -> None:
    """Fit and judge every category of a labelled dataset, and write figures and a report."""
    from patchcore_plugin.datasets import load_categories

    categories = _chosen(load_categories(dataset), category)
    wanted = setup.Setup(
        recipe=recipe,
        backbone=backbone,
        aggregator=aggregator,
        sampler=sampler,
        scorer=scorer,
        options=tuple(options or ()),
        device=device,
        precision=precision,
        seed=seed,
    )
    with Reporter() as progress:
        evaluation = run(categories, wanted, setup.host_of(context), out, on_error, progress)
    if as_json:
        print_json(evaluation.to_json())
    else:
        show(evaluation, out)
    if any(each.failed for each in evaluation.categories):
        for each in evaluation.categories:
            for failure in each.failed:
                typer.echo(f"patchcore: {failure.reason}", err=True)
        typer.echo("patchcore: some photos or masks could not be used; all others are done", err=True)
        raise typer.Exit(1)


def run(
    categories: list[Category],
    wanted: setup.Setup,
    host: Host,
    out: Path,
    on_error: Literal["stop", "skip"],
    progress: Reporter,
) -> Evaluation:
    """Evaluate, and write the report beside the figures."""
    resolved = wanted.load().resolved(host, wanted.seed)
    from patchcore_plugin.evaluation import evaluate
    from patchcore_plugin.report import write_report

    evaluation = evaluate(
        categories,
        lambda: wanted.detector(host),
        out,
        on_error=on_error,
        progress=progress,
        recipe=resolved.to_dict(),
    )
    write_report(evaluation, out / "report.html")
    return evaluation


def show(evaluation: Evaluation, out: Path) -> None:
    """Print the table of figures."""
    columns = [
        "category",
        "image AUROC",
        "AP",
        "F1-max",
        "pixel AUROC",
        "AUPRO",
        "fit s",
        "s/photo",
        "bank",
        "radius",
    ]
    named = [(each.name, each.metrics) for each in evaluation.categories]
    if len(named) > 1:
        named.append(("mean", evaluation.mean))
    rows = [
        [
            name,
            *(number(figures[key]) for key in ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "aupro")),
            number(figures["fit_seconds"], 1),
            number(figures["predict_seconds_per_image"], 3),
            number(figures["bank_rows"], 0),
            number(figures["covering_radius"], 3),
        ]
        for name, figures in named
    ]
    print_table(columns, rows)
    print(f"written  {out / 'metrics.json'}, {out / 'report.html'}")


def _chosen(categories: list[Category], names: list[str] | None) -> list[Category]:
    if not names:
        return categories
    known = {category.name: category for category in categories}
    for name in names:
        if name not in known:
            raise DatasetError(f"no category {name!r}; the dataset has: {', '.join(known)}")
    return [known[name] for name in names]
