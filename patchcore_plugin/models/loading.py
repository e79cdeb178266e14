"""Load a model file of any kind."""

from __future__ import annotations

from pathlib import Path

from patchcore_plugin.errors import OptionError
from patchcore_plugin.plugins.manager import Host

from . import file
from .detector import Detector
from .exported_model import ExportedModel
from .pipeline import Precision

Model = Detector | ExportedModel


def load_model(
    path: str | Path, *, device: str = "auto", precision: Precision | None = None, host: Host | None = None
) -> Model:
    """Return the detector in a model file, or the exported model in an ONNX file.

    Parameters
    ----------
    path
        A file written by ``patchcore fit`` (.safetensors) or ``patchcore export`` (.onnx).
    device
        "auto", "cpu", "cuda" and so on.
    precision
        "fp32" or "bf16" for the backbones of a detector; None for that of the fit.
    host
        Provides the components; all installed plugins by default.

    Returns
    -------
    Detector or ExportedModel
        The model, ready for predictions.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, too new, or needs a plugin that is not installed.
    OptionError
        For a precision other than fp32 and an exported model.
    WeightsError
        If the weights of a backbone are not those of the fit.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> changes = {"backbone": {"name": "resnet18", "weights": "random"}, "preprocessing": {"size": (32, 32)}}
    >>> images = list(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    >>> detector = Detector.from_recipe("patchcore", **changes).fit(images)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     detector.save(Path(folder, "model.safetensors"))
    ...     model = load_model(Path(folder, "model.safetensors"))
    >>> model.predict(images[:1])[0].score == detector.predict(images[:1])[0].score
    True
    """
    path = Path(path)
    if path.suffix == ".onnx" and not file.is_safetensors(path):
        if precision not in (None, ExportedModel.precision):
            raise OptionError(f"{path}: an exported model computes in fp32; omit --precision {precision}")
        return ExportedModel.load(path, device=device)
    return Detector.load(path, device=device, precision=precision, host=host)
