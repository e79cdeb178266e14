"""`patchcore fit`: good photos to a model file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from . import setup
from .console import Reporter, number, print_json


def command(
    context: typer.Context,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Photos of good parts: folders, files, .txt lists, or one MVTec-style category.", readable=False
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
        detector.fit(photos, on_error=on_error, progress=progress, announce=progress.note)
    detector.save(out)
    seconds = time.perf_counter() - start
    bank = detector.bank
    summary = {
        "model": str(out),
        "photos": len(photos) - len(detector.skipped),
        "skipped": [str(error) for error in detector.skipped],
        "bank_rows": len(bank.vectors),
        "patches_seen": bank.seen,
        "covering_radius": detector.covering_radius,
        "radius_curve": detector.radius_curve,
        "threshold": detector.threshold,
        "threshold_source": detector.calibration.source,
        "seconds": seconds,
    }
    if as_json:
        print_json(summary)
    else:
        print(f"model      {out}")
        print(f"photos     {summary['photos']}, in {seconds:.1f} s")
        print(
            f"bank       {len(bank.vectors)} of {bank.seen} patches, covering radius {number(detector.covering_radius)}"
        )
        if len(detector.radius_curve) > 1:
            curve = "  ".join(f"{rows}: {number(radius, 3)}" for rows, radius in detector.radius_curve)
            print(f"smaller    covering radius by bank rows, for --set sampler.radius=...  {curve}")
        print(f"threshold  {number(detector.threshold)} ({detector.calibration.source})")
        print(f"next       patchcore predict {out} PHOTOS --out results")
    setup.report_unreadable(detector.skipped, len(photos))
