"""`patchcore fit`: fit a model on good images."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as cli_options
from .console import Reporter, format_decimal, print_json, report_skipped, skip_reason
from .parsing import parse_size
from .summary import describe_bank, find_highest, format_bank, format_highest


def command(
    context: typer.Context,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images of good parts: folders, files, .txt lists, or one category of a data set.", readable=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Model file to write (.safetensors).")],
    recipe: cli_options.RecipeOption = "patchcore",
    backbone: cli_options.BackboneOption = None,
    aggregator: cli_options.AggregatorOption = None,
    sampler: cli_options.SamplerOption = None,
    scorer: cli_options.ScorerOption = None,
    options: cli_options.SetOption = None,
    device: cli_options.DeviceOption = "auto",
    precision: cli_options.PrecisionOption = None,
    seed: cli_options.SeedOption = 0,
    false_alarm_rate: cli_options.FalseAlarmRateOption = None,
    keep_thumbnails: Annotated[
        bool,
        typer.Option(
            "--keep-thumbnails",
            help="Store thumbnails of the training images in the model, to explain predictions.",
        ),
    ] = False,
    memory_budget: Annotated[
        int | None,
        typer.Option(
            "--memory-budget",
            parser=parse_size,
            metavar="SIZE",
            help="Limit on memory that grows with the number of images, such as 2GB; "
            "the memory bank is reduced if necessary.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Store features next to the model during the fit, and reuse those of an interrupted fit.",
        ),
    ] = False,
    on_error: cli_options.OnErrorOption = "stop",
    as_json: cli_options.JsonOption = False,
) -> None:
    """Fit a model on images of good parts."""
    from patchcore_plugin.data.datasets import find_training_images

    detector_options = cli_options.DetectorOptions(
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
    detector = detector_options.create_detector(cli_options.create_host(context))
    cli_options.require_writable(out)
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
        "skipped": [skip_reason(error) for error in detector.skipped],
        **describe_bank(detector),
        "threshold": detector.threshold,
        "threshold_source": detector.calibration.describe(),
        "map_threshold": detector.calibration.map_threshold,
        "false_alarm_rate": detector.calibration.false_alarm_rate,
        "highest_scores": find_highest(detector),
        "seconds": seconds,
    }
    if as_json:
        print_json(summary)
    else:
        print(f"model      {out}")
        print(f"images     {summary['images']}, in {seconds:.1f} s")
        if "members" not in summary:
            _print_bank(summary, "")
        for place, member in enumerate(summary.get("members", ())):
            print(f"member {place}   {member['name']}")
            _print_bank(member, f"{place}.")
        print(f"threshold  {format_decimal(detector.threshold)} ({detector.calibration.describe()})")
        if summary["highest_scores"]:
            print(format_highest(summary["highest_scores"]))
        print(f"next       patchcore predict {shlex.quote(str(out))} IMAGES --out results")
    report_skipped(detector.skipped, len(paths))


def _print_bank(bank: Mapping[str, Any], prefix: str) -> None:
    print(f"bank       {format_bank(bank)}")
    if len(bank["radius_curve"]) > 1:
        curve = "  ".join(f"{rows}: {format_decimal(radius, 3)}" for rows, radius in bank["radius_curve"])
        print(f"curve      covering radius by bank rows, for --set {prefix}sampler.radius=RADIUS:  {curve}")
