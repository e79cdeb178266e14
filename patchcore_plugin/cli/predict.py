"""`patchcore predict`: a model file and paths to scores and pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from patchcore_plugin.errors import ImageError

from . import setup
from .console import Reporter, number, print_json, print_table

STDIN = Path("-")
TABLE = ("is_anomalous", "score", "p_value", "path", "map", "why")
"""What is kept of each record for the table; a video has many frames."""


def command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model file written by fit.", readable=False)],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images and videos to judge: folders of paths, files, .txt lists, or - for a list on standard input.",
            readable=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for results.jsonl, heat maps and overlays.")],
    coco: Annotated[
        bool, typer.Option("--coco", help="Write the regions as coco.json, too, for annotation tools.")
    ] = False,
    frame_step: Annotated[
        int, typer.Option("--frame-step", min=1, help="Judge every so many-th frame of a video.")
    ] = 1,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Paths on standard input end with NUL, as find -print0 writes them.")
    ] = False,
    device: setup.DeviceOption = "auto",
    precision: setup.PrecisionOption = None,
    on_error: setup.OnErrorOption = "skip",
    as_json: setup.JsonOption = False,
) -> None:
    """Score paths, and draw where they differ from good ones."""
    from patchcore_plugin.data.datasets import find_images
    from patchcore_plugin.data.datasets.files import read_paths

    named = [each for each in images if each != STDIN]
    paths = find_images(named) if named else []
    from patchcore_plugin.data.video import is_video
    from patchcore_plugin.inference.coco import write_coco
    from patchcore_plugin.inference.explain import ExplanationPictures
    from patchcore_plugin.inference.runner import predict_files
    from patchcore_plugin.inference.writer import ResultsWriter
    from patchcore_plugin.models.file import software
    from patchcore_plugin.models.loading import load_model
    from patchcore_plugin.models.recipes.ensemble import EnsembleRecipe

    detector = load_model(model, device=device, precision=precision, host=setup.host_of(context))
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
                progress("judging images", done, total)
        progress("judging images", done, done)
    if coco:
        info = {"description": "Regions found by patchcore predict", "model": str(model), "software": software()}
        write_coco(out / "results.jsonl", out / "coco.json", info)
    if as_json:
        print_json({"results": records, "failed": [setup.skipped_because(error) for error in errors]})
    else:
        verdicts = {True: "defect", False: "good", None: "-"}
        rows = [
            [verdicts[each["is_anomalous"]], number(each["score"], 3), number(each["p_value"], 3), each["path"]]
            for each in records
        ]
        print_table(["verdict", "score", "p-value", "image"], rows)
        defective = sum(each["is_anomalous"] is True for each in records)
        found = "" if detector.threshold is None else f", {defective} defective"
        print(f"judged     {len(records)}{found}")
        print(f"threshold  {number(detector.threshold)} ({detector.calibration.describe()})")
        if any(each["map"] for each in records):
            low, high = detector.map_scale
            print(f"colours    from {low:.3f} to {high:.3f} in every picture")
            why = f", {out / 'why'}" if any(each["why"] for each in records) else ""
            print(f"written    {out / 'results.jsonl'}, {out / 'heat_maps'}, {out / 'overlays'}{why}")
        else:
            if records:
                recipe = detector.recipe
                members = recipe.members if isinstance(recipe, EnsembleRecipe) else (recipe,)
                scorers = ", ".join(dict.fromkeys(member.scorer.name for member in members))
                print(f"no map     scorer {scorers} judges whole paths only")
            print(f"written    {out / 'results.jsonl'}")
        if coco:
            print(f"coco       {out / 'coco.json'}")
    setup.report_unreadable(errors, done)
