"""A detector, an ensemble or an exported model, whichever a recipe or a file asks for."""

from __future__ import annotations

from pathlib import Path

from patchcore_plugin.errors import ModelFileError, OptionError
from patchcore_plugin.plugins.manager import Host

from . import file as model_file
from .detector import Detector
from .ensemble import Ensemble
from .exported import ExportedModel
from .pipeline import Precision
from .recipes.ensemble import AnyRecipe, EnsembleRecipe

Model = Detector | Ensemble | ExportedModel
ZIP = b"PK\x03\x04"


def model_of(
    recipe: AnyRecipe,
    *,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "fp32",
    host: Host | None = None,
) -> Detector | Ensemble:
    """Return a detector, or an ensemble, of a recipe; the parameters are those of both."""
    if isinstance(recipe, EnsembleRecipe):
        return Ensemble(recipe, seed=seed, device=device, precision=precision, host=host)
    return Detector(recipe, seed=seed, device=device, precision=precision, host=host)


def load_model(
    path: str | Path, *, device: str = "auto", precision: Precision | None = None, host: Host | None = None
) -> Model:
    """Return what was saved: a detector, an ensemble, or what `patchcore export` has made of one for ONNX.

    The parameters and errors are those of `Detector.load`, or of `ExportedModel.load` for a file ``*.onnx``.

    Raises
    ------
    ModelFileError
        Also for a program of torch.export: reading one can run code that is in the file.
    OptionError
        If an exported model is to compute in another precision than fp32.
    """
    path = Path(path)
    head = model_file.head(path) if path.is_file() else b""
    if head.startswith(ZIP):
        raise ModelFileError(
            f"{path}: a program of torch.export, which patchcore writes and does not read, because reading one can run "
            "code that is in the file; give the model file, or export that with --format onnx"
        )
    if path.suffix == ".onnx" and head[8:9] != b"{":
        if precision not in (None, ExportedModel.precision):
            raise OptionError(f"{path}: an exported model computes in fp32; leave --precision {precision} out")
        return ExportedModel.load(path, device=device)
    kind = Ensemble if "members" in model_file.read_manifest(path) else Detector
    return kind.load(path, device=device, precision=precision, host=host)
