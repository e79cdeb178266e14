"""`patchcore export`: convert a fitted model for other runtimes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import print_json


def command(
    context: typer.Context,
    model: options.ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="File to write (.onnx).")],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            help="Images to check the exported model with: folder, file or .txt list; repeatable.",
            show_default="some of the training images",
        ),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Export a model to ONNX, and compare its results with the model's. Requires the extra `export`."""
    from patchcore_plugin.data.datasets import find_images

    paths = find_images(images) if images else []
    from patchcore_plugin.models.export.model import BATCHES, SUFFIX, export_model
    from patchcore_plugin.models.loading import load_model

    detector = load_model(model, device="cpu", precision="fp32", host=options.create_host(context))
    options.require_writable(out, f"model{SUFFIX}")
    export = export_model(detector, out, images=paths)
    if as_json:
        print_json(
            {
                "file": str(export.path),
                "outputs": export.outputs,
                "images": export.images,
                "sizes": export.sizes,
                "batches": BATCHES,
                "largest_score_difference": export.score_difference,
                "largest_map_difference": export.map_difference,
            }
        )
        return
    sizes = ", ".join(f"{height} x {width}" for height, width in export.sizes)
    print(f"file       {out} ({out.stat().st_size / 1e6:.1f} MB)")
    print("input      images: RGB, float32 in [0, 1], [batch, height, width, 3], any size")
    print(f"outputs    {', '.join(export.outputs)}")
    print(f"checked    {export.images} images of {sizes}; batches of {', '.join(map(str, BATCHES))}")
    print(f"score      largest relative difference {export.score_difference:.1e}")
    if export.map_difference is not None:
        print(f"map        largest difference {export.map_difference:.1e} of the range of values")
    print(f"next       patchcore predict {shlex.quote(str(out))} IMAGES --out results")
