"""`patchcore update`: add good images to a fitted model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchcore_plugin.errors import ModelFileError

from . import options
from .console import Reporter, format_decimal, print_json, report_skipped, skip_reason
from .summary import describe_bank, find_highest, format_bank, format_highest

if TYPE_CHECKING:
    from patchcore_plugin.models.detector import Detector


def command(
    context: typer.Context,
    model: options.ModelArgument,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images of good parts: folders, files or .txt lists. Images already in the model are ignored.",
            readable=False,
        ),
    ],
    out: options.NewModelOption = None,
    device: options.DeviceOption = "auto",
    on_error: options.OnErrorOption = "stop",
    as_json: options.JsonOption = False,
) -> None:
    """Add good images to a model without fitting it again.

    The images are scored first, to update the threshold, then merged into the memory bank.
    """
    from patchcore_plugin.data.datasets import find_images

    paths = find_images(images)
    from patchcore_plugin.models.detector import Detector
    from patchcore_plugin.models.fitting.new_images import new_images
    from patchcore_plugin.models.loading import load_model

    detector = load_model(model, device=device, host=options.create_host(context))
    if not isinstance(detector, Detector):
        raise ModelFileError(
            f"{model}: an exported model cannot be updated; update the model file it was exported from, "
            "then export that again"
        )
    options.require_writable(out or model)
    new = new_images(paths, detector.training_images)
    before = _describe(detector)
    start = time.perf_counter()
    with Reporter() as progress:
        detector.update(new, on_error=on_error, progress=progress)
    detector.save(out or model)
    seconds = time.perf_counter() - start
    after = _describe(detector)
    previous = before["threshold"]
    above = None if previous is None else sum(score > previous for _, score in detector.held_out_scores)
    summary: dict[str, Any] = {
        "model": str(out or model),
        "images_added": len(new) - len(detector.skipped),
        "images_already_in_model": len(paths) - len(new),
        "skipped": [skip_reason(error) for error in detector.skipped],
        "before": before,
        "after": after,
        "threshold_source": detector.calibration.describe(),
        "above_previous_threshold": above,
        "highest_scores": find_highest(detector),
        "seconds": seconds,
    }
    if as_json:
        print_json(summary)
    else:
        present = summary["images_already_in_model"]
        print(f"model      {out or model}")
        print(
            f"images     {summary['images_added']} added in {seconds:.1f} s"
            + (f"; {present} already in the model" if present else "")
        )
        for place, (old, updated) in enumerate(zip(_list_members(before), _list_members(after), strict=True)):
            if "name" in updated:
                print(f"member {place}   {updated['name']}")
            print(f"before     {format_bank(old)}")
            print(f"after      {format_bank(updated)}")
        threshold = f"{format_decimal(detector.threshold)} ({detector.calibration.describe()})"
        print(f"threshold  {threshold}, previously {format_decimal(previous)}")
        if above is not None:
            print(f"new        {above} of {len(detector.held_out_scores)} images score above the previous threshold")
        if summary["highest_scores"]:
            print(format_highest(summary["highest_scores"]))
    report_skipped(detector.skipped, len(new))


def _describe(detector: Detector) -> dict[str, Any]:
    return {**describe_bank(detector), "threshold": detector.threshold}


def _list_members(state: dict[str, Any]) -> list[dict[str, Any]]:
    members: list[dict[str, Any]] = state.get("members", [state])
    return members
