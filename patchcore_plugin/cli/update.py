"""`patchcore update`: more good paths for a model file, without fitting it again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchcore_plugin.errors import ModelFileError

from . import setup
from .console import Reporter, number, print_json
from .fit import bank_line, highest, highest_line, learned

if TYPE_CHECKING:
    from patchcore_plugin.models.detector import Detector
    from patchcore_plugin.models.ensemble import Ensemble


def command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model file written by fit.", readable=False)],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="More paths of good parts: folders, files or .txt lists; those in the model already are left out.",
            readable=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Write another file, and leave the model as it is.")] = None,
    device: setup.DeviceOption = "auto",
    on_error: setup.OnErrorOption = "stop",
    as_json: setup.JsonOption = False,
) -> None:
    """Let a model learn from more good paths: they are judged, then merged into its bank."""
    from patchcore_plugin.data.datasets import find_images

    paths = find_images(images)
    from patchcore_plugin.models.detector import Detector
    from patchcore_plugin.models.ensemble import Ensemble
    from patchcore_plugin.models.fitting.updating import new_images
    from patchcore_plugin.models.loading import load_model

    detector = load_model(model, device=device, host=setup.host_of(context))
    if not isinstance(detector, Detector | Ensemble):
        raise ModelFileError(
            f"{model}: an exported model cannot learn; update the model it was made of, and export that"
        )
    setup.require_writable(out or model)
    new = new_images(paths, detector.training_images)
    before = _state(detector)
    start = time.perf_counter()
    with Reporter() as progress:
        detector.update(new, on_error=on_error, progress=progress)
    detector.save(out or model)
    seconds = time.perf_counter() - start
    after = _state(detector)
    limit = before["threshold"]
    summary: dict[str, Any] = {
        "model": str(out or model),
        "images_added": len(new) - len(detector.skipped),
        "images_known": len(paths) - len(new),
        "skipped": [setup.skipped_because(error) for error in detector.skipped],
        "before": before,
        "after": after,
        "threshold_source": detector.calibration.describe(),
        "above_before": None if limit is None else sum(score > limit for _, score in detector.good_scores),
        "highest": highest(detector),
        "seconds": seconds,
    }
    if as_json:
        print_json(summary)
    else:
        known = f"; {summary['images_known']} are in the model already" if summary["images_known"] else ""
        print(f"model      {out or model}")
        print(f"images     {summary['images_added']} added, in {seconds:.1f} s{known}")
        for place, (old, now) in enumerate(zip(_members(before), _members(after), strict=True)):
            if "name" in now:
                print(f"member {place}   {now['name']}")
            print(f"before     {bank_line(old)}")
            print(f"after      {bank_line(now)}")
        print(f"threshold  {number(detector.threshold)} ({detector.calibration.describe()}), before {number(limit)}")
        if summary["above_before"] is not None:
            judged = len(detector.good_scores)
            print(f"new        {summary['above_before']} of {judged} paths were above the former threshold")
        if summary["highest"]:
            print(highest_line(summary["highest"]))
    setup.report_unreadable(detector.skipped, len(new))


def _state(detector: Detector | Ensemble) -> dict[str, Any]:
    return {**learned(detector), "threshold": detector.threshold}


def _members(state: dict[str, Any]) -> list[dict[str, Any]]:
    members: list[dict[str, Any]] = state.get("members", [state])
    return members
