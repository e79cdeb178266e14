"""`patchcore app`: inspect images, set the threshold and fit models in a browser."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from patchcore_plugin.errors import PatchcoreError

from . import options
from .parsing import parse_size


def command(
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Model file written by patchcore fit.", show_default="fit a model in the app", readable=False
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", help="Folder with images to inspect or fit on. Repeatable.", readable=False),
    ] = None,
    models: Annotated[Path, typer.Option("--models", help="Folder of models; fitted models are saved there.")] = Path(
        "models"
    ),
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. The default accepts only this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 for a free port.")] = 8080,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Host name of a reverse proxy to accept. Repeatable."),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    max_upload: Annotated[
        int | None,
        typer.Option(
            "--max-upload", parser=parse_size, metavar="SIZE", help="Largest image file.", show_default="50MB"
        ),
    ] = None,
    max_pixels: Annotated[
        float, typer.Option("--max-pixels", min=0.01, max=10**6, help="Largest image, in millions of pixels.")
    ] = 100.0,
    device: options.DeviceOption = "auto",
) -> None:
    """Inspect images, set the threshold and fit models in a browser."""
    if find_spec("nicegui") is None:
        raise PatchcoreError("the app needs NiceGUI, which is not installed; pip install 'patchcore-plugin[app]'")
    from patchcore_plugin.app.limits import Limits
    from patchcore_plugin.app.server import LOOPBACK, find_port, serve
    from patchcore_plugin.app.site import Site

    limits = Limits(upload=max_upload or Limits.upload, pixels=int(max_pixels * 10**6))
    port = find_port(host, port)
    site = Site(
        model=model, models=models, images=images or [], limits=limits, host=options.create_host(context), device=device
    )

    def announce(url: str) -> None:
        print(f"app        {url} (press Ctrl+C to stop)", flush=True)
        if host not in LOOPBACK:
            print("warning    no login: anyone who can reach this address can use the app", flush=True)

    serve(site, host=host, port=port, show=not no_open, on_start=announce, names=allow_host or [])
