"""`patchcore fit`: good paths to a model file."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import setup
from .console import Reporter, number, print_json, printable

if TYPE_CHECKING:
    from patchcore_plugin.models.detector import Detector
    from patchcore_plugin.models.ensemble import Ensemble

HIGHEST = 3
"""Of the good paths so many are named, those with the highest scores."""


def command(
    context: typer.Context,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images of good parts: folders, files, .txt lists, or one category of a data set.", readable=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Model file to write (.safetensors).")],
    recipe: setup.RecipeOption = "patchcore",
    backbone: setup.BackboneOption = None,
    aggregator: setup.AggregatorOption = None,
    sampler: setup.SamplerOption = None,
    scorer: setup.ScorerOption = None,
    options: setup.SetOption = None,
    device: setup.DeviceOption = "auto",
    precision: setup.PrecisionOption = None,
    seed: setup.SeedOption = 0,
    false_alarm_rate: setup.FalseAlarmRateOption = None,
    keep_thumbnails: Annotated[
        bool,
        typer.Option(
            "--keep-thumbnails",
            help="Keep small copies of the paths in the model, to show what defects were compared with.",
        ),
    ] = False,
    memory_budget: Annotated[
        int | None,
        typer.Option(
            "--memory-budget",
            parser=setup.parse_size,
            metavar="SIZE",
            help="What all that grows with the number of paths may take, such as 2GB; the bank is smaller if need be.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep features beside the model meanwhile, and go on from those of a fit that was broken off.",
        ),
    ] = False,
    on_error: setup.OnErrorOption = "stop",
    as_json: setup.JsonOption = False,
) -> None:
    """Learn what good parts look like, and write a model file."""
    from patchcore_plugin.data.datasets import find_training_images

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
    paths = find_training_images(images)
    detector = wanted.detector(setup.host_of(context))
    setup.require_writable(out)
    features = out.with_name(f"{out.name}.features")
    start = time.perf_counter()
    with Reporter() as progress:
        detector.fit(
            paths,
            false_alarm_rate=false_alarm_rate,
            keep_thumbnails=keep_thumbnails,
            memory_budget=memory_budget,
            features=features if resume else None,
            on_error=on_error,
            progress=progress,
            announce=progress.note,
        )
    detector.save(out)
    if resume:
        from patchcore_plugin.models.fitting.store import discard

        discard(features)
    seconds = time.perf_counter() - start
    summary: dict[str, Any] = {
        "model": str(out),
        "images": len(paths) - len(detector.skipped),
        "skipped": [setup.skipped_because(error) for error in detector.skipped],
        **learned(detector),
        "threshold": detector.threshold,
        "threshold_source": detector.calibration.describe(),
        "map_threshold": detector.calibration.map_threshold,
        "false_alarm_rate": detector.calibration.false_alarm_rate,
        "highest": highest(detector),
        "seconds": seconds,
    }
    if as_json:
        print_json(summary)
    else:
        print(f"model      {out}")
        print(f"images     {summary['images']}, in {seconds:.1f} s")
        if "members" not in summary:
            _show(summary, "")
        for place, member in enumerate(summary.get("members", ())):
            print(f"member {place}   {member['name']}")
            _show(member, f"{place}.")
        print(f"threshold  {number(detector.threshold)} ({detector.calibration.describe()})")
        if summary["highest"]:
            print(highest_line(summary["highest"]))
        print(f"next       patchcore predict {shlex.quote(str(out))} IMAGES --out results")
    setup.report_unreadable(detector.skipped, len(paths))


def highest(detector: Detector | Ensemble) -> list[dict[str, Any]]:
    """Return which of the good paths got the highest scores, a few."""
    scores = sorted(detector.good_scores, key=lambda each: -each[1])
    return [{"path": path, "score": score} for path, score in scores[:HIGHEST]]


def highest_line(highest: Sequence[Mapping[str, Any]]) -> str:
    """Say so, and what it is good for."""
    named = ", ".join(f"{printable(each['path'])} ({number(each['score'])})" for each in highest)
    return f"highest    {named}: if one of these good paths shows a defect, remove it and fit again"


def learned(detector: Detector | Ensemble) -> dict[str, Any]:
    """Return what is in the bank, or in those of an ensemble's members."""
    from patchcore_plugin.models.ensemble import Ensemble

    if isinstance(detector, Ensemble):
        return {"members": [{"name": member.recipe.name, **learned(member)} for member in detector.members]}
    return {
        "bank_rows": detector.bank_rows,
        "patches_seen": detector.bank.seen,
        "covering_radius": detector.covering_radius,
        "radius_is_exact": detector.radius_is_exact,
        "radius_curve": detector.radius_curve,
    }


def bank_line(learned: dict[str, Any]) -> str:
    """Say what is in a bank."""
    radius = ("" if learned["radius_is_exact"] else "at most ") + number(learned["covering_radius"])
    return f"{learned['bank_rows']} of {learned['patches_seen']} patches, covering radius {radius}"


def _show(learned: dict[str, Any], prefix: str) -> None:
    print(f"bank       {bank_line(learned)}")
    if len(learned["radius_curve"]) > 1:
        curve = "  ".join(f"{rows}: {number(radius, 3)}" for rows, radius in learned["radius_curve"])
        print(f"smaller    covering radius by bank rows, for --set {prefix}sampler.radius=...  {curve}")
