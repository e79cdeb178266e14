"""`patchcore predict`: score images and videos with a fitted model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from patchcore_plugin.errors import ImageError

from . import options
from .console import (
    VERDICTS,
    Reporter,
    format_count,
    format_decimal,
    print_json,
    print_table,
    report_skipped,
    skip_reason,
)

if TYPE_CHECKING:
    from patchcore_plugin.models.loading import Model

STDIN = Path("-")
TABLE = ("is_anomalous", "score", "p_value", "path", "map", "why")
"""Fields of a record that the table needs; a long video yields many records."""


def command(
    context: typer.Context,
    model: options.ModelArgument,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images and videos: folders of images, files, .txt lists, or - for a list on standard input.",
            readable=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for results.jsonl, heat maps and overlays.")],
    coco: Annotated[
        bool, typer.Option("--coco", help="Also write the regions to coco.json, for annotation tools.")
    ] = False,
    frame_step: Annotated[
        int, typer.Option("--frame-step", min=1, help="Process every Nth frame of a video.", metavar="N")
    ] = 1,
    null: Annotated[
        bool,
        typer.Option(
            "--null", "-0", help="Paths on standard input are separated by NUL, as in the output of find -print0."
        ),
    ] = False,
    device: options.DeviceOption = "auto",
    precision: options.PrecisionOption = None,
    on_error: options.OnErrorOption = "skip",
    as_json: options.JsonOption = False,
) -> None:
    """Score images, and draw heat maps of their defects."""
    from patchcore_plugin.data.datasets import find_images
    from patchcore_plugin.data.datasets.files import read_paths

    arguments = [path for path in images if path != STDIN]
    paths = find_images(arguments) if arguments else []
    from patchcore_plugin.data.video import is_video
    from patchcore_plugin.inference.coco import write_coco
    from patchcore_plugin.inference.explain import ExplanationPictures
    from patchcore_plugin.inference.runner import predict_files
    from patchcore_plugin.inference.writer import ResultsWriter
    from patchcore_plugin.models.file import software
    from patchcore_plugin.models.loading import load_model

    detector = load_model(model, device=device, precision=precision, host=options.create_host(context))
    records: list[dict[str, Any]] = []
    errors: list[ImageError] = []
    total = None if STDIN in images or any(map(is_video, paths)) else len(paths)
    lists: Iterable[list[Path]] = [paths]
    if STDIN in images:
        lists = chain(lists, read_paths(cast(BufferedReader, sys.stdin.buffer), null=null))
    done = 0
    explain = ExplanationPictures(detector.thumbnails)
    with ResultsWriter(out, detector.map_scale, explain=explain) as writer, Reporter() as progress:
        for paths in lists:
            for outcome, extra in predict_files(detector, paths, frame_step=frame_step, on_error=on_error):
                if isinstance(outcome, ImageError):
                    errors.append(outcome)
                else:
                    record = writer.write(outcome, **extra)
                    records.append(record if as_json else {key: record[key] for key in TABLE})
                done += 1
                progress("scoring images", done, total)
        progress("scoring images", done, done)
    if coco:
        info = {"description": "Regions found by patchcore predict", "model": str(model), "software": software()}
        write_coco(out / "results.jsonl", out / "coco.json", info)
    if as_json:
        print_json({"results": records, "failed": [skip_reason(error) for error in errors]})
    else:
        _print_summary(detector, records, out)
        if coco:
            print(f"coco       {out / 'coco.json'}")
    report_skipped(errors, done)


def _print_summary(detector: Model, records: Sequence[Mapping[str, Any]], out: Path) -> None:
    rows = [
        [
            VERDICTS[record["is_anomalous"]],
            format_decimal(record["score"], 3),
            format_decimal(record["p_value"], 3),
            record["path"],
        ]
        for record in records
    ]
    print_table(["verdict", "score", "p-value", "image"], rows)
    defective = sum(record["is_anomalous"] is True for record in records)
    detections = "" if detector.threshold is None else f", {defective} defective"
    print(f"scored     {format_count(len(records), 'image')}{detections}")
    print(f"threshold  {format_decimal(detector.threshold)} ({detector.calibration.describe()})")
    if any(record["map"] for record in records):
        low, high = detector.map_scale
        print(f"colours    {low:.3f} to {high:.3f} in all heat maps")
        why = f", {out / 'why'}" if any(record["why"] for record in records) else ""
        print(f"written    {out / 'results.jsonl'}, {out / 'heat_maps'}, {out / 'overlays'}{why}")
        return
    if records:
        scorers = ", ".join(dict.fromkeys(member.scorer.name for member in detector.recipe.members))
        print(f"no maps    scorer {scorers} scores whole images only")
    print(f"written    {out / 'results.jsonl'}")
