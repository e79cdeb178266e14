"""What all pages share: the models, the one fit, the folders; and the server that shows them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.models.recipes.ensemble import load_recipe
from patchcore_plugin.models.recipes.recipe import Recipe

from .fitting import Fitting, Wanted
from .library import Library
from .limits import Folders, Limits
from .pictures import Pictures
from .visit import Visits

if TYPE_CHECKING:
    from patchcore_plugin.plugins.manager import Host

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the fit page offers."""

    recipes: tuple[str, ...]
    backbones: tuple[str, ...]


class Site:
    """Everything behind the pages.

    Parameters
    ----------
    model
        The model file given at the start, if any; it is loaded at once, so that what is wrong with it is told there.
    models
        Where models are saved, and further ones found.
    images
        Folders that may be read.
    limits
        Of images and visits.
    host
        Where components come from.
    device
        As in `Detector`.
    """

    def __init__(
        self, *, model: Path | None, models: Path, images: list[Path], limits: Limits, host: Host, device: str
    ) -> None:
        self.host = host
        self.device = device
        self.limits = limits
        self.folders = Folders(images)
        self.library = Library(model, models, self._load)
        if model is not None:
            self.library.open(model.name)
        self.visits = Visits(limits)
        self.fitting = Fitting(self._make)
        self.pictures = Pictures(self.visits, self.folders)
        self.choices = Choices(recipes=tuple(Recipe.names()), backbones=tuple(host.names("backbone")))

    def _load(self, path: Path) -> Any:
        from patchcore_plugin.models.loading import load_model

        return load_model(path, device=self.device, host=self.host)

    def _make(self, wanted: Wanted) -> Any:
        if wanted.recipe not in self.choices.recipes:
            raise PatchcoreError(f"{wanted.recipe}: no such recipe here")
        recipe = load_recipe(wanted.recipe)
        if wanted.backbone is not None:
            recipe = recipe.change("backbone", wanted.backbone)
        from patchcore_plugin.models.loading import model_of

        return model_of(recipe, device=self.device, host=self.host)


def serve(
    site: Site, *, host: str, port: int, show: bool, started: Callable[[str], object], names: Sequence[str] = ()
) -> None:
    """Show the pages until the user stops it.

    Parameters
    ----------
    site
        What is behind them.
    host, port
        Where to listen.
    show
        Whether to open a browser.
    started
        Called with the address once it can be opened.
    names
        Further names by which the page may be asked for, such as that of a server in front.
    """
    from nicegui import app, ui
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from .guards import BodyLimit, SameOrigin
    from .pages import register

    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    app.add_middleware(BodyLimit, limit=site.limits.upload)
    app.add_middleware(SameOrigin)
    if host in LOOPBACK or names:
        # A site whose name is made to lead to this machine sends its own name.
        allowed = [*LOOPBACK, "[::1]", host, *names]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False)
    app.include_router(site.pictures.router)
    app.on_startup(lambda: started(address))
    app.on_shutdown(site.fitting.cancel)
    app.on_shutdown(site.visits.close)  # a process that is terminated comes no further
    register(site)
    with site.visits:
        ui.run(
            host=host,
            port=port,
            title="patchcore",
            reconnect_timeout=20,  # images of a visit outlast a short break of the connection
            language="en-US",
            dark=None,  # as the visitor's system
            reload=False,
            show=show,
            show_welcome_message=False,
            tailwind=False,
            favicon=FAVICON,
        )


def free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0; PatchcoreError if nothing can listen there."""
    try:
        kind = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(kind[4])
            return int(probe.getsockname()[1])
    except OSError as error:
        raise PatchcoreError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}); choose another with --host and --port"
        ) from None


FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#2f5573"/>'
    '<path stroke="#fff" stroke-width="5" stroke-dasharray="5 1.5" d="M7 9.5h18M7 16h18M7 22.5h18"/>'
    '<path fill="#f2a541" d="M13.5 13.5h5v5h-5z"/></svg>'
)
