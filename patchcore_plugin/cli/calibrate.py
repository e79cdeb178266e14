"""`patchcore calibrate`: another threshold for a model file, without fitting it again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import setup
from .console import Reporter, number, print_json


def command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model file written by fit.", readable=False)],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Images of good parts that it was not fitted on; without any, its own stay.", readable=False
        ),
    ] = None,
    defective: Annotated[
        list[Path] | None,
        typer.Option("--defective", help="Images of defective parts: folder, file or .txt list; repeatable."),
    ] = None,
    false_alarm_rate: setup.FalseAlarmRateOption = None,
    criterion: Annotated[
        Literal["false-alarms", "f1", "cost"],
        typer.Option("--criterion", help="What the threshold is chosen by; f1 and cost need defective images."),
    ] = "false-alarms",
    cost: Annotated[
        float | None,
        typer.Option("--cost", help="With --criterion cost: what a missed defect costs, in false alarms; default: 1."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write another file, and leave the model as it is.")] = None,
    device: setup.DeviceOption = "auto",
    on_error: setup.OnErrorOption = "stop",
    as_json: setup.JsonOption = False,
) -> None:
    """Choose another threshold for a model, by images that it does not know or those judged in its fit."""
    from patchcore_plugin.data.datasets import find_images

    if cost is not None and criterion != "cost":
        raise typer.BadParameter("--cost belongs to --criterion cost; give both or neither")
    good = find_images(images) if images else []
    bad = find_images(defective) if defective else []
    from patchcore_plugin.models.loading import load_model
    from patchcore_plugin.models.recalibration import recalibrated

    detector = load_model(model, device=device, host=setup.host_of(context))
    setup.require_writable(out or model)
    before = detector.threshold
    with Reporter() as progress:
        calibration, skipped = recalibrated(
            detector,
            good,
            bad,
            criterion=criterion,
            false_alarm_rate=false_alarm_rate,
            cost=1.0 if cost is None else cost,
            on_error=on_error,
            progress=progress,
        )
    detector.calibration = calibration
    detector.save(out or model)
    found = sum(score > (calibration.threshold or 0) for score in calibration.defective)
    above = sum(score > before for score in calibration.scores) if good and before is not None else None
    if as_json:
        print_json(
            {
                "model": str(out or model),
                "threshold": calibration.threshold,
                "threshold_before": before,
                "map_threshold": calibration.map_threshold,
                "false_alarm_rate": calibration.false_alarm_rate,
                "smallest_false_alarm_rate": calibration.smallest_rate,
                "good_images": len(calibration.scores),
                "good_above_before": above,
                "defective_images": len(calibration.defective),
                "defective_found": found,
                "threshold_source": calibration.describe(),
                "skipped": [setup.skipped_because(error) for error in skipped],
            }
        )
    else:
        print(f"model      {out or model}")
        print(f"threshold  {number(calibration.threshold)} ({calibration.describe()}), before {number(before)}")
        if calibration.map_threshold is not None:
            print(f"map        regions are above {number(calibration.map_threshold)}")
        if above is not None:
            print(f"good       {above} of {len(calibration.scores)} images are above the former threshold")
        if calibration.defective:
            print(f"defective  {found} of {len(calibration.defective)} images are above the threshold")
    setup.report_unreadable(skipped, len(good) + len(bad))
