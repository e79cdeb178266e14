"""`patchcore export`: a fitted model as one program, which other runtimes run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from . import setup
from .console import print_json


def command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model file written by fit.", readable=False)],
    out: Annotated[Path, typer.Option("--out", help="File to write: *.onnx, or *.pt2 for torch.")],
    format: Annotated[  # noqa: A002
        Literal["onnx", "torch"],
        typer.Option("--format", help="onnx, which many runtimes run, or torch for a program of torch.export."),
    ] = "onnx",
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            help="Images to check the program with: folder, file or .txt list; repeatable; default: some of those "
            "that the model was fitted on.",
        ),
    ] = None,
    as_json: setup.JsonOption = False,
) -> None:
    """Write a model as one program, checked against it on real images; needs the extra `export`."""
    from patchcore_plugin.data.datasets import find_images

    given = find_images(images) if images else []
    from patchcore_plugin.models.export.model import BATCHES, SUFFIXES, export_model
    from patchcore_plugin.models.loading import load_model

    fitted = load_model(model, device="cpu", precision="fp32", host=setup.host_of(context))
    setup.require_writable(out, f"model{SUFFIXES[format]}")
    export = export_model(fitted, out, format=format, images=given)
    if as_json:
        print_json(
            {
                "file": str(export.path),
                "format": format,
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
    print("takes      images: RGB, float32 [batch, height, width, 3] in 0..1, of any size")
    print(f"gives      {', '.join(export.outputs)}")
    print(f"checked    on {export.images} images at {sizes}; {', '.join(map(str, BATCHES))} at once")
    print(f"score      differs by {export.score_difference:.1e} at most, relative to it")
    if export.map_difference is not None:
        print(f"map        differs by {export.map_difference:.1e} of its range at most")
    if format == "onnx":
        print(f"next       patchcore predict {shlex.quote(str(out))} IMAGES --out results")
