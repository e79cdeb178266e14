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
from .plugins.discovery import Plugin
from .plugins.hookspecs import hookimpl
from .plugins.manager import Component, Host, default_host
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
from .plugins.specs import (
    CONTRACT_VERSION,
    AggregatorSpec,
    BackboneSpec,
    Capabilities,
    ComponentSpec,
    SamplerSpec,
    ScorerSpec,
)

if TYPE_CHECKING:
    from .inference.coco import coco_of
    from .inference.explain import why_picture
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
    from .plugins.backbones import StagedBackbone, differences, initialise, read_weights

__all__ = [
    "CONTRACT_VERSION",
    "Aggregator",
    "AggregatorSpec",
    "Backbone",
    "BackboneSpec",
    "Calibration",
    "CalibrationError",
    "Capabilities",
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
    "default_host",
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
    "Calibration": "models.calibration",
    "Detector": "models.detector",
    "Ensemble": "models.ensemble",
    "EnsembleRecipe": "models.recipes.ensemble",
    "ExportedModel": "models.exported",
    "Nearest": "models.prediction",
    "Prediction": "models.prediction",
    "Recipe": "models.recipes.recipe",
    "Region": "models.regions",
    "StagedBackbone": "plugins.backbones",
    "coco_of": "inference.coco",
    "differences": "plugins.backbones",
    "export_model": "models.export.model",
    "initialise": "plugins.backbones",
    "load_model": "models.loading",
    "load_recipe": "models.recipes.ensemble",
    "model_of": "models.loading",
    "read_weights": "plugins.backbones",
    "recalibrated": "models.recalibration",
    "why_picture": "inference.explain",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
