"""`patchcore calibrate`: choose a new threshold for a fitted model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options
from .console import Reporter, format_decimal, print_json, report_skipped, skip_reason


def command(
    context: typer.Context,
    model: options.ModelArgument,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Good images that were not used to fit the model. Without any, the scores from the fit are reused.",
            readable=False,
        ),
    ] = None,
    defective: Annotated[
        list[Path] | None,
        typer.Option("--defective", help="Images of defective parts: folder, file or .txt list; repeatable."),
    ] = None,
    false_alarm_rate: options.FalseAlarmRateOption = None,
    criterion: Annotated[
        Literal["false-alarms", "f1", "cost"],
        typer.Option("--criterion", help="How to choose the threshold; f1 and cost need defective images."),
    ] = "false-alarms",
    cost: Annotated[
        float | None,
        typer.Option("--cost", help="Cost of a missed defect in false alarms, for --criterion cost.", show_default="1"),
    ] = None,
    out: options.NewModelOption = None,
    device: options.DeviceOption = "auto",
    on_error: options.OnErrorOption = "stop",
    as_json: options.JsonOption = False,
) -> None:
    """Choose a new threshold for a model, without fitting it again."""
    from patchcore_plugin.data.datasets import find_images

    if cost is not None and criterion != "cost":
        raise typer.BadParameter("--cost requires --criterion cost; pass both or neither")
    good = find_images(images) if images else []
    bad = find_images(defective) if defective else []
    from patchcore_plugin.models.loading import load_model
    from patchcore_plugin.models.recalibration import recalibrate

    detector = load_model(model, device=device, host=options.create_host(context))
    options.require_writable(out or model)
    previous = detector.threshold
    with Reporter() as progress:
        calibration, skipped = recalibrate(
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
    detections = sum(score > (calibration.threshold or 0) for score in calibration.defective)
    above = sum(score > previous for score in calibration.scores) if good and previous is not None else None
    if as_json:
        print_json(
            {
                "model": str(out or model),
                "threshold": calibration.threshold,
                "previous_threshold": previous,
                "map_threshold": calibration.map_threshold,
                "false_alarm_rate": calibration.false_alarm_rate,
                "smallest_false_alarm_rate": calibration.smallest_rate,
                "good_images": len(calibration.scores),
                "good_above_previous_threshold": above,
                "defective_images": len(calibration.defective),
                "defective_above_threshold": detections,
                "threshold_source": calibration.describe(),
                "skipped": [skip_reason(error) for error in skipped],
            }
        )
    else:
        threshold = f"{format_decimal(calibration.threshold)} ({calibration.describe()})"
        print(f"model      {out or model}")
        print(f"threshold  {threshold}, previously {format_decimal(previous)}")
        if calibration.map_threshold is not None:
            print(f"map        regions are above {format_decimal(calibration.map_threshold)}")
        if above is not None:
            print(f"good       {above} of {len(calibration.scores)} images score above the previous threshold")
        if calibration.defective:
            print(f"defective  {detections} of {len(calibration.defective)} images score above the threshold")
    report_skipped(skipped, len(good) + len(bad))
