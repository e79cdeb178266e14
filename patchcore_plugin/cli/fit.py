"""`patchcore fit`: good photos to a model file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import setup
from .console import Reporter, number, print_json

if TYPE_CHECKING:
    from patchcore_plugin.detector import Detector
    from patchcore_plugin.ensemble import Ensemble


def command(
    context: typer.Context,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Photos of good parts: folders, files, .txt lists, or one category of a data set.", readable=False
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
    on_error: setup.OnErrorOption = "stop",
    as_json: setup.JsonOption = False,
) -> None:
    """Learn what good parts look like, and write a model file."""
    from patchcore_plugin.datasets import training_photos

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
    photos = training_photos(images)
    detector = wanted.detector(setup.host_of(context))
    setup.require_writable(out)
    start = time.perf_counter()
    with Reporter() as progress:
        detector.fit(
            photos,
            false_alarm_rate=false_alarm_rate,
            on_error=on_error,
            progress=progress,
            announce=progress.note,
        )
    detector.save(out)
    seconds = time.perf_counter() - start
    summary: dict[str, Any] = {
        "model": str(out),
        "photos": len(photos) - len(detector.skipped),
        "skipped": [str(error) for error in detector.skipped],
        **_learned(detector),
        "threshold": detector.threshold,
        "threshold_source": detector.calibration.describe(),
        "map_threshold": detector.calibration.map_threshold,
        "false_alarm_rate": detector.calibration.false_alarm_rate,
        "seconds": seconds,
    }
    if as_json:
        print_json(summary)
    else:
        print(f"model      {out}")
        print(f"photos     {summary['photos']}, in {seconds:.1f} s")
        if "members" not in summary:
            _show(summary, "")
        for place, member in enumerate(summary.get("members", ())):
            print(f"member {place}   {member['name']}")
            _show(member, f"{place}.")
        print(f"threshold  {number(detector.threshold)} ({detector.calibration.describe()})")
        print(f"next       patchcore predict {out} PHOTOS --out results")
    setup.report_unreadable(detector.skipped, len(photos))


def _learned(detector: Detector | Ensemble) -> dict[str, Any]:
    """Return what is in the bank, or in those of an ensemble's members."""
    from patchcore_plugin.ensemble import Ensemble

    if isinstance(detector, Ensemble):
        return {"members": [{"name": member.recipe.name, **_learned(member)} for member in detector.members]}
    return {
        "bank_rows": detector.bank_rows,
        "patches_seen": detector.bank.seen,
        "covering_radius": detector.covering_radius,
        "radius_curve": detector.radius_curve,
    }


def _show(learned: dict[str, Any], prefix: str) -> None:
    radius = number(learned["covering_radius"])
    print(f"bank       {learned['bank_rows']} of {learned['patches_seen']} patches, covering radius {radius}")
    if len(learned["radius_curve"]) > 1:
        curve = "  ".join(f"{rows}: {number(radius, 3)}" for rows, radius in learned["radius_curve"])
        print(f"smaller    covering radius by bank rows, for --set {prefix}sampler.radius=...  {curve}")
