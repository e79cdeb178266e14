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
from .hookspecs import hookimpl
from .host import Component, Host, Plugin
from .roles import (
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
from .specs import (
    CONTRACT_VERSION,
    AggregatorSpec,
    BackboneSpec,
    ComponentSpec,
    SamplerSpec,
    ScorerSpec,
)

if TYPE_CHECKING:
    from .calibration import Calibration
    from .coco import coco_of
    from .detector import Detector
    from .ensemble import Ensemble
    from .ensemble_recipe import EnsembleRecipe, load_recipe
    from .exported import ExportedModel
    from .model_export import export_model
    from .models import load_model, model_of
    from .prediction import Nearest, Prediction
    from .recalibration import recalibrated
    from .recipe import Recipe
    from .regions import Region
    from .staged import StagedBackbone, initialise
    from .weights import differences, read_weights
    from .why import why_picture

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
    "coco_of",
    "differences",
    "export_model",
    "hash_weights",
    "hookimpl",
    "initialise",
    "load_model",
    "load_recipe",
    "model_of",
    "read_weights",
    "recalibrated",
    "why_picture",
]

_LAZY = {
    "Calibration": "calibration",
    "Detector": "detector",
    "Ensemble": "ensemble",
    "EnsembleRecipe": "ensemble_recipe",
    "ExportedModel": "exported",
    "Nearest": "prediction",
    "Prediction": "prediction",
    "Recipe": "recipe",
    "Region": "regions",
    "StagedBackbone": "staged",
    "coco_of": "coco",
    "differences": "weights",
    "export_model": "model_export",
    "initialise": "staged",
    "load_model": "models",
    "load_recipe": "ensemble_recipe",
    "model_of": "models",
    "read_weights": "weights",
    "recalibrated": "recalibration",
    "why_picture": "why",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
