"""`patchcore evaluate`: measure recipes on a labelled data set."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore_plugin.errors import DatasetError, OptionError

from . import completion
from . import options as cli_options
from .compare import compare_recipes, print_comparison
from .console import Reporter, print_json, skip_reason
from .evaluation import EvaluationRun, evaluate_recipe, print_evaluation
from .parsing import group_by_recipe

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category


def command(
    context: typer.Context,
    dataset: Annotated[
        Path, typer.Argument(help="Data set, or one category of it: a folder or a .csv file.", readable=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json, report.html and images.")],
    category: Annotated[
        list[str] | None,
        typer.Option("--category", help="Category to evaluate; repeatable.", show_default="all categories"),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            help="Name of a built-in recipe, or path of a .toml file; repeat it to compare several recipes. "
            "--set RECIPE:ROLE.OPTION=VALUE then applies to one of them.",
            show_default="patchcore",
            autocompletion=completion.recipes,
        ),
    ] = None,
    backbone: cli_options.BackboneOption = None,
    aggregator: cli_options.AggregatorOption = None,
    sampler: cli_options.SamplerOption = None,
    scorer: cli_options.ScorerOption = None,
    options: cli_options.SetOption = None,
    device: cli_options.DeviceOption = "auto",
    precision: cli_options.PrecisionOption = None,
    seed: cli_options.SeedOption = 0,
    on_error: cli_options.OnErrorOption = "skip",
    published: Annotated[
        bool, typer.Option("--published", help="Add published results to the comparison of several recipes.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard the stored results of an earlier comparison in --out.")
    ] = False,
    as_json: cli_options.JsonOption = False,
) -> None:
    """Fit and test a model on every category of a labelled data set, and write metrics and a report.

    Pass --recipe more than once to compare recipes. Each recipe runs on each category in a separate process.

    Finished results are stored in --out: run the same command again to resume an interrupted comparison.
    """
    from patchcore_plugin.data.datasets import load_categories

    names = recipe or ["patchcore"]
    several = len(names) > 1
    if not several and (published or fresh):
        raise typer.BadParameter("--published and --fresh require a comparison; pass --recipe at least twice")
    categories = _select(load_categories(dataset.absolute() if several else dataset), category)
    recipes = _by_name(
        [
            cli_options.DetectorOptions(
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
    with Reporter() as progress:
        run = EvaluationRun(
            categories=categories,
            out=out.absolute() if several else out,
            plugins=cli_options.PluginFilter.from_context(context),
            progress=progress,
            on_error=on_error,
        )
        if several:
            comparison = compare_recipes(run, recipes, fresh=fresh, published=published)
            document, show = comparison.to_json(), partial(print_comparison, comparison, out)
            unusable, failures = comparison.unusable, comparison.reasons
        else:
            evaluation = evaluate_recipe(run, next(iter(recipes.values())))
            document, show = evaluation.to_json(), partial(print_evaluation, evaluation, out)
            unusable = [failure.reason for result in evaluation.categories for failure in result.failed]
            failures = []
    if as_json:
        print_json(document)
    else:
        show()
    for line in [*map(skip_reason, unusable), *failures]:
        typer.echo(f"patchcore: {line}", err=True)
    if failures:
        typer.echo("patchcore: some recipes failed; the rest were evaluated", err=True)
    if unusable:
        typer.echo("patchcore: some images or masks were skipped; the rest were evaluated", err=True)
    if failures or unusable:
        raise typer.Exit(1)


def _by_name(recipes: list[cli_options.DetectorOptions], options: list[str]) -> dict[str, cli_options.DetectorOptions]:
    """Return the recipes by name, each with its options. Names must differ."""
    by_name: dict[str, cli_options.DetectorOptions] = {}
    for detector_options in recipes:
        name = detector_options.load_recipe().name
        if name in by_name:
            raise OptionError(
                f"--recipe {by_name[name].recipe} and --recipe {detector_options.recipe} are both named {name!r}; "
                "remove one, or rename its file"
            )
        by_name[name] = detector_options
    groups = group_by_recipe(options, list(by_name))
    return {name: replace(detector_options, options=groups[name]) for name, detector_options in by_name.items()}


def _select(categories: list[Category], names: list[str] | None) -> list[Category]:
    if not names:
        return categories
    by_name = {category.name: category for category in categories}
    for name in names:
        if name not in by_name:
            raise DatasetError(f"unknown category {name!r}; the data set contains: {', '.join(by_name)}")
    return [by_name[name] for name in dict.fromkeys(names)]
