"""`patchcore evaluate`: a labelled dataset to figures and a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from patchcore_plugin.errors import DatasetError, OptionError
from patchcore_plugin.plugins.manager import Host

from . import compare, completion, setup
from .console import Reporter, number, print_json, print_table

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category
    from patchcore_plugin.evaluation.results import Evaluation


def command(
    context: typer.Context,
    dataset: Annotated[
        Path, typer.Argument(help="A data set, or one category of it: a folder, or a .csv file.", readable=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json, report.html and pictures.")],
    category: Annotated[
        list[str] | None, typer.Option("--category", help="Only this category; may be repeated.")
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            help="A shipped recipe (patchcore, if none is given), or the path of a .toml file. Several are compared; "
            "--set RECIPE:PART.OPTION=VALUE is then for one of them.",
            autocompletion=completion.recipes,
        ),
    ] = None,
    backbone: setup.BackboneOption = None,
    aggregator: setup.AggregatorOption = None,
    sampler: setup.SamplerOption = None,
    scorer: setup.ScorerOption = None,
    options: setup.SetOption = None,
    device: setup.DeviceOption = "auto",
    precision: setup.PrecisionOption = None,
    seed: setup.SeedOption = 0,
    on_error: setup.OnErrorOption = "skip",
    published: Annotated[
        bool, typer.Option("--published", help="With several recipes: show figures that others published beside.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="With several recipes: measure again what was finished before.")
    ] = False,
    as_json: setup.JsonOption = False,
) -> None:
    """Fit and judge every category of a labelled dataset, and write figures and a report.

    Several recipes are compared: each on each category, in a process of its own. What is finished is kept in --out, so
    that the same command goes on where it was broken off.
    """
    from patchcore_plugin.data.datasets import load_categories

    names = recipe or ["patchcore"]
    if len(names) == 1 and (published or fresh):
        raise typer.BadParameter("--published and --fresh belong to a comparison; give --recipe twice or more")
    categories = _chosen(load_categories(dataset.absolute() if len(names) > 1 else dataset), category)
    wanted = _by_name(
        [
            setup.Setup(
                recipe=name,
                backbone=backbone,
                aggregator=aggregator,
                sampler=sampler,
                scorer=scorer,
                device=device,
                precision=precision,
                seed=seed,
            )
            for name in names
        ],
        options or [],
    )
    if len(names) > 1:
        _compare(context, categories, wanted, out, on_error, fresh=fresh, published=published, as_json=as_json)
        return
    (only,) = wanted.values()
    with Reporter() as progress:
        evaluation = run(categories, only, setup.host_of(context), out, on_error, progress)
    if as_json:
        print_json(evaluation.to_json())
    else:
        show(evaluation, out)
    if any(each.failed for each in evaluation.categories):
        for each in evaluation.categories:
            for failure in each.failed:
                typer.echo(f"patchcore: {setup.skipped_because(failure.reason)}", err=True)
        typer.echo("patchcore: some images or masks could not be used; all others are done", err=True)
        raise typer.Exit(1)


def _by_name(recipes: list[setup.Setup], options: list[str]) -> dict[str, setup.Setup]:
    """Return the recipes by name, with the options of each; names that are equal cannot be told apart."""
    found: dict[str, setup.Setup] = {}
    for each in recipes:
        name = each.load().name
        if name in found:
            raise OptionError(
                f"--recipe {found[name].recipe} and --recipe {each.recipe} are both called {name!r}; "
                "give each once, or rename one of the files"
            )
        found[name] = each
    by_recipe = setup.options_by_recipe(options, list(found))
    return {name: replace(each, options=by_recipe[name]) for name, each in found.items()}


def _compare(
    context: typer.Context,
    categories: list[Category],
    wanted: dict[str, setup.Setup],
    out: Path,
    on_error: Literal["stop", "skip"],
    *,
    fresh: bool,
    published: bool,
    as_json: bool,
) -> None:
    with Reporter() as progress:
        try:
            comparison = compare.run(
                categories,
                wanted,
                setup.Blocked.of(context),
                out.absolute(),
                on_error,
                progress,
                fresh=fresh,
                published=published,
            )
        except KeyboardInterrupt:
            progress.note("interrupted; what is finished is kept, and the same command goes on from there")
            raise
    if as_json:
        print_json(comparison.to_json())
    else:
        compare.show(comparison, out)
    for line in [*map(setup.skipped_because, comparison.unusable), *comparison.reasons]:
        typer.echo(f"patchcore: {line}", err=True)
    if comparison.reasons:
        typer.echo("patchcore: some recipes failed; all others are done", err=True)
    if comparison.unusable:
        typer.echo("patchcore: some images or masks could not be used; all others are done", err=True)
    if comparison.reasons or comparison.unusable:
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
    from patchcore_plugin.evaluation.measurement import evaluate
    from patchcore_plugin.evaluation.report.page import write_report

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
        "false alarms",
        "found",
        "fit s",
        "s/image",
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
            *(number(figures[key], 3) for key in ("false_alarm_rate", "detection_rate")),
            number(figures["fit_seconds"], 1),
            number(figures["predict_seconds_per_image"], 3),
            number(figures["bank_rows"], 0),
            number(figures["covering_radius"], 3),
        ]
        for name, figures in named
    ]
    print_table(columns, rows)
    print("false alarms and defects found are shares of the test images at the model's own threshold")
    print(f"written  {out / 'metrics.json'}, {out / 'report.html'}")


def _chosen(categories: list[Category], names: list[str] | None) -> list[Category]:
    if not names:
        return categories
    known = {category.name: category for category in categories}
    for name in names:
        if name not in known:
            raise DatasetError(f"no category {name!r}; the dataset has: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]
