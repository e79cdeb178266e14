"""`patchcore app`: a web page that judges images, moves the threshold, and fits models."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from patchcore_plugin.errors import PatchcoreError

from . import options, parsing


def command(
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Argument(help="Model file written by fit; without one, fit one in the page.", readable=False)
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", help="Folder whose images may be judged and fitted on; repeatable.", readable=False),
    ] = None,
    models: Annotated[
        Path, typer.Option("--models", help="Folder where fitted models are saved, and further ones found.")
    ] = Path("models"),
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others than this machine's own let others in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = 8080,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Name of a server in front that passes requests on; repeatable."),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    max_upload: Annotated[
        int | None,
        typer.Option(
            "--max-upload", parser=parsing.parse_size, metavar="SIZE", help="Largest file of an image; default: 50MB."
        ),
    ] = None,
    max_pixels: Annotated[
        float, typer.Option("--max-pixels", min=0.01, max=10**6, help="Largest image, in millions of pixels.")
    ] = 100.0,
    device: options.DeviceOption = "auto",
) -> None:
    """Judge images, choose the threshold and fit models in a web page on this machine."""
    if find_spec("nicegui") is None:
        raise PatchcoreError("the app needs NiceGUI, which is not installed; pip install 'patchcore-plugin[app]'")
    from patchcore_plugin.app.limits import Limits
    from patchcore_plugin.app.site import LOOPBACK, Site, free_port, serve

    limits = Limits(upload=max_upload or Limits.upload, pixels=int(max_pixels * 10**6))
    port = free_port(host, port)
    site = Site(
        model=model, models=models, images=images or [], limits=limits, host=options.create_host(context), device=device
    )

    def started(address: str) -> None:
        print(f"app        {address} (Ctrl+C stops it)", flush=True)
        if host not in LOOPBACK:
            print("open       whoever can reach this address can use it: there is no login", flush=True)

    serve(site, host=host, port=port, show=not no_open, started=started, names=allow_host or [])
