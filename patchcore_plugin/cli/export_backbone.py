"""`patchcore export-backbone`: a backbone as an ONNX file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from patchcore_plugin.errors import OptionError
from patchcore_plugin.models.recipes.ensemble import EnsembleRecipe

from . import setup
from .console import print_json


def command(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="ONNX file to write.")],
    recipe: setup.RecipeOption = "patchcore",
    backbone: setup.BackboneOption = None,
    options: setup.SetOption = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="HEIGHT,WIDTH", help="Take images of this size only; default: any size."),
    ] = None,
    seed: setup.SeedOption = 0,
    as_json: setup.JsonOption = False,
) -> None:
    """Write a backbone as an ONNX file, checked against torch; needs the extra `export`."""
    fixed = None if size is None else _size(size)
    for text in options or ():
        if setup.parse_option(text)[0] != "backbone":
            raise OptionError(f"--set {text}: only the backbone is exported; expected backbone.OPTION=VALUE")
    wanted = setup.Setup(recipe=recipe, backbone=backbone, options=tuple(options or ()), seed=seed)
    host = setup.host_of(context)
    chosen = wanted.load().resolved(host, seed)
    if isinstance(chosen, EnsembleRecipe):
        raise OptionError(
            f"recipe {recipe!r} is an ensemble; export one backbone at a time: --backbone NAME, no --recipe"
        )
    choice = chosen.backbone

    from patchcore_plugin.models.export.backbone import export_backbone

    made = host.create("backbone", choice.name, **choice.options)
    export = export_backbone(made, out, size=fixed, name=choice.name, options=choice.options)
    if as_json:
        print_json(
            {
                "file": str(export.path),
                "maps": export.maps,
                "size": export.size,
                "weight_hash": export.weight_hash,
                "largest_relative_difference": export.difference,
            }
        )
        return
    print(f"file     {out}")
    print(f"maps     {', '.join(export.maps)}")
    print(f"images   {f'{fixed[0]} x {fixed[1]} only' if fixed else 'any size'}, any number at once")
    if export.difference is None:
        print("checked  not compared with torch; for that, pip install onnxruntime")
    else:
        print(f"checked  largest relative difference from torch: {export.difference:.1e}")
    print(
        f"next     patchcore fit IMAGES --out m.safetensors --backbone onnx --set backbone.file={shlex.quote(str(out))}"
    )


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.split(","))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise typer.BadParameter(f"expected HEIGHT,WIDTH, such as 256,256, got {text}", param_hint="--size")
    return height, width
