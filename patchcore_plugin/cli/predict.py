"""`patchcore predict`: a model file and photos to scores and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from patchcore_plugin.errors import ImageError

from . import setup
from .console import Reporter, number, print_json, print_table


def command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model file written by fit.", readable=False)],
    images: Annotated[
        list[Path], typer.Argument(help="Photos to judge: folders, files or .txt lists.", readable=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for results.jsonl, heat maps and overlays.")],
    device: setup.DeviceOption = "auto",
    precision: setup.PrecisionOption = None,
    on_error: setup.OnErrorOption = "skip",
    as_json: setup.JsonOption = False,
) -> None:
    """Score photos, and draw where they differ from good ones."""
    from patchcore_plugin.datasets import find_photos

    photos = find_photos(images)
    from patchcore_plugin.ensemble import Ensemble
    from patchcore_plugin.images import read_photo
    from patchcore_plugin.models import load_model
    from patchcore_plugin.result_writer import ResultsWriter

    detector = load_model(model, device=device, precision=precision, host=setup.host_of(context))
    records: list[dict[str, Any]] = []
    errors: list[ImageError] = []
    with ResultsWriter(out, detector.map_scale) as writer, Reporter() as progress:
        found = detector.predict_each(photos, on_error=on_error)
        for done, (path, prediction) in enumerate(zip(photos, found, strict=True), start=1):
            if isinstance(prediction, ImageError):
                errors.append(prediction)
            else:
                pixels = None if prediction.anomaly_map is None else read_photo(path)
                records.append(writer.write(prediction, pixels))
            progress("judging photos", done, len(photos))
    if as_json:
        print_json({"results": records, "failed": [str(error) for error in errors]})
    else:
        verdicts = {True: "defect", False: "good", None: "-"}
        rows = [
            [verdicts[each["is_anomalous"]], number(each["score"], 3), number(each["p_value"], 3), each["path"]]
            for each in records
        ]
        print_table(["verdict", "score", "p-value", "photo"], rows)
        print(f"threshold  {number(detector.threshold)} ({detector.calibration.describe()})")
        if any(each["map"] for each in records):
            low, high = detector.map_scale
            print(f"colours    from {low:.3f} to {high:.3f} in every picture")
            print(f"written    {out / 'results.jsonl'}, {out / 'heat_maps'}, {out / 'overlays'}")
        else:
            if records:
                members = detector.members if isinstance(detector, Ensemble) else (detector,)
                scorers = ", ".join(dict.fromkeys(member.recipe.scorer.name for member in members))
                print(f"no map     scorer {scorers} judges whole photos only")
            print(f"written    {out / 'results.jsonl'}")
    setup.report_unreadable(errors, len(photos))
