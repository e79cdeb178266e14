"""State that all pages share: models, sessions, the fit job and the readable folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.models.recipes import Recipe

from .fit_job import FitJob, FitRequest
from .limits import Folders, Limits
from .model_store import ModelStore
from .routes import SessionRoutes
from .session import SessionStore

if TYPE_CHECKING:
    from patchcore_plugin.plugins.manager import Host


class Site:
    """State that all pages share.

    Parameters
    ----------
    model
        Model file given on the command line, if any. It is loaded immediately, so that errors end the command.
    models
        Folder of further models, where fitted models are saved.
    images
        Folders that may be read.
    limits
        Limits for images and sessions.
    host
        Plugin host that provides the components.
    device
        Device of the models, such as ``"auto"`` or ``"cuda:0"``.

    Raises
    ------
    PatchcoreError
        If the model cannot be loaded or a folder does not exist.
    """

    def __init__(
        self, *, model: Path | None, models: Path, images: list[Path], limits: Limits, host: Host, device: str
    ) -> None:
        self.host = host
        self.device = device
        self.limits = limits
        self.folders = Folders(images)
        self.models = ModelStore(model, models, self._load)
        if model is not None:
            self.models.open(model.name)
        self.sessions = SessionStore(limits)
        self.fit_job = FitJob(self._create_model)
        self.routes = SessionRoutes(self.sessions, self.folders)
        self.recipes, self.backbones = list(Recipe.names()), list(host.names("backbone"))

    def _load(self, path: Path) -> Any:
        from patchcore_plugin.models.loading import load_model

        return load_model(path, device=self.device, host=self.host)

    def _create_model(self, request: FitRequest) -> Any:
        if request.recipe not in self.recipes:
            raise PatchcoreError(f"{request.recipe}: no such recipe; choose one from the list")
        recipe = Recipe.load(request.recipe)
        if request.backbone is not None:
            recipe = recipe.change("backbone", request.backbone)
        from patchcore_plugin.models.detector import Detector

        return Detector(recipe, device=self.device, host=self.host)
