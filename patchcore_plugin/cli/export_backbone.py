"""`patchcore export-backbone`: convert a backbone to ONNX."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from patchcore_plugin.errors import OptionError

from . import options as cli_options
from .console import print_json
from .parsing import parse_option


def command(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="ONNX file to write.")],
    recipe: cli_options.RecipeOption = "patchcore",
    backbone: cli_options.BackboneOption = None,
    options: cli_options.SetOption = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="HEIGHT,WIDTH", help="Fixed size of the images.", show_default="any size"),
    ] = None,
    seed: cli_options.SeedOption = 0,
    as_json: cli_options.JsonOption = False,
) -> None:
    """Export a backbone to ONNX, and compare its results with torch. Requires the extra `export`."""
    fixed_size = None if size is None else _parse_image_size(size)
    for text in options or ():
        if parse_option(text)[0] != "backbone":
            raise OptionError(f"--set {text}: only the backbone is exported; expected backbone.OPTION=VALUE")
    detector_options = cli_options.DetectorOptions(
        recipe=recipe, backbone=backbone, options=tuple(options or ()), seed=seed
    )
    host = cli_options.create_host(context)
    resolved = detector_options.load_recipe().resolve(host, seed)
    if len(resolved.members) > 1:
        raise OptionError(f"recipe {recipe!r} is an ensemble; export one backbone at a time with --backbone NAME")
    choice = resolved.backbone

    from patchcore_plugin.models.export.backbone import export_backbone

    component = host.create("backbone", choice.name, **choice.options)
    export = export_backbone(component, out, size=fixed_size, name=choice.name, options=choice.options)
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
    print(f"images   {f'{fixed_size[0]} x {fixed_size[1]} only' if fixed_size else 'any size'}, any batch size")
    if export.difference is None:
        print("checked  not compared with torch; to compare, pip install onnxruntime and export again")
    else:
        print(f"checked  largest relative difference from torch: {export.difference:.1e}")
    print(
        f"next     patchcore fit IMAGES --out m.safetensors --backbone onnx --set backbone.file={shlex.quote(str(out))}"
    )


def _parse_image_size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.split(","))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise typer.BadParameter(f"expected HEIGHT,WIDTH, such as 256,256, got {text}", param_hint="--size")
    return height, width
