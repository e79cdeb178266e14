"""A detector or an ensemble, whichever a recipe or a file asks for."""

from __future__ import annotations

from pathlib import Path

from . import model_file
from .composition import Precision
from .detector import Detector
from .ensemble import Ensemble
from .ensemble_recipe import AnyRecipe, EnsembleRecipe
from .host import Host

Model = Detector | Ensemble


def model_of(
    recipe: AnyRecipe,
    *,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "fp32",
    host: Host | None = None,
) -> Model:
    """Return a detector, or an ensemble, of a recipe; the parameters are those of both."""
    if isinstance(recipe, EnsembleRecipe):
        return Ensemble(recipe, seed=seed, device=device, precision=precision, host=host)
    return Detector(recipe, seed=seed, device=device, precision=precision, host=host)


def load_model(
    path: str | Path, *, device: str = "auto", precision: Precision | None = None, host: Host | None = None
) -> Model:
    """Return what was saved, a detector or an ensemble; the parameters and errors are those of `Detector.load`."""
    kind = Ensemble if "members" in model_file.read_manifest(Path(path)) else Detector
    return kind.load(path, device=device, precision=precision, host=host)
