"""PatchCore anomaly detection as a plugin host.

What needs torch is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    CalibrationError,
    DatasetError,
    ImageError,
    ModelFileError,
    OptionError,
    PatchcoreError,
    PluginError,
    ResultsError,
    TensorError,
    WeightsError,
)
from .plugins.hookspecs import hookimpl
from .plugins.manager import Component, Host, Plugin
from .plugins.protocols import (
    Aggregator,
    Backbone,
    MemoryBank,
    Patches,
    Reduction,
    Sampler,
    Scorer,
    Scores,
    StreamingScorer,
    hash_weights,
)
from .plugins.specs import CONTRACT_VERSION, AggregatorSpec, BackboneSpec, ComponentSpec, SamplerSpec, ScorerSpec

if TYPE_CHECKING:
    from .inference.coco import coco_annotations
    from .inference.explain import explanation_picture
    from .models.calibration import Calibration
    from .models.detector import Detector
    from .models.ensemble import Ensemble
    from .models.export.model import export_model
    from .models.exported import ExportedModel
    from .models.loading import load_model, model_of
    from .models.prediction import Nearest, Prediction
    from .models.recalibration import recalibrated
    from .models.recipes.ensemble import EnsembleRecipe, load_recipe
    from .models.recipes.recipe import Recipe
    from .models.regions import Region
    from .plugins.staged import StagedBackbone, initialise
    from .plugins.weights import differences, read_weights

__all__ = [
    "CONTRACT_VERSION",
    "Aggregator",
    "AggregatorSpec",
    "Backbone",
    "BackboneSpec",
    "Calibration",
    "CalibrationError",
    "Component",
    "ComponentSpec",
    "DatasetError",
    "Detector",
    "Ensemble",
    "EnsembleRecipe",
    "ExportedModel",
    "Host",
    "ImageError",
    "MemoryBank",
    "ModelFileError",
    "Nearest",
    "OptionError",
    "PatchcoreError",
    "Patches",
    "Plugin",
    "PluginError",
    "Prediction",
    "Recipe",
    "Reduction",
    "Region",
    "ResultsError",
    "Sampler",
    "SamplerSpec",
    "Scorer",
    "ScorerSpec",
    "Scores",
    "StagedBackbone",
    "StreamingScorer",
    "TensorError",
    "WeightsError",
    "coco_annotations",
    "differences",
    "explanation_picture",
    "export_model",
    "hash_weights",
    "hookimpl",
    "initialise",
    "load_model",
    "load_recipe",
    "model_of",
    "read_weights",
    "recalibrated",
]

_LAZY = {
    "Calibration": "models.calibration",
    "Detector": "models.detector",
    "Ensemble": "models.ensemble",
    "EnsembleRecipe": "models.recipes.ensemble",
    "ExportedModel": "models.exported",
    "Nearest": "models.prediction",
    "Prediction": "models.prediction",
    "Recipe": "models.recipes.recipe",
    "Region": "models.regions",
    "StagedBackbone": "plugins.staged",
    "coco_annotations": "inference.coco",
    "differences": "plugins.weights",
    "explanation_picture": "inference.explain",
    "export_model": "models.export.model",
    "initialise": "plugins.staged",
    "load_model": "models.loading",
    "load_recipe": "models.recipes.ensemble",
    "model_of": "models.loading",
    "read_weights": "plugins.weights",
    "recalibrated": "models.recalibration",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
