"""PatchCore anomaly detection as a plugin host.

Names that need torch are imported on first use.
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
    from .inference.coco import coco_annotations
    from .inference.explain import explanation_picture
    from .models.calibration import Calibration
    from .models.detector import Detector
    from .models.export.model import export_model
    from .models.exported_model import ExportedModel
    from .models.loading import load_model
    from .models.member import Member
    from .models.prediction import Nearest, Prediction
    from .models.recalibration import recalibrate
    from .models.recipes import Recipe
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
    "ExportedModel",
    "Host",
    "ImageError",
    "Member",
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
    "default_host",
    "differences",
    "explanation_picture",
    "export_model",
    "hash_weights",
    "hookimpl",
    "initialise",
    "load_model",
    "read_weights",
    "recalibrate",
]

_LAZY = {
    "Calibration": "models.calibration",
    "Detector": "models.detector",
    "ExportedModel": "models.exported_model",
    "Member": "models.member",
    "Nearest": "models.prediction",
    "Prediction": "models.prediction",
    "Recipe": "models.recipes",
    "Region": "models.regions",
    "StagedBackbone": "plugins.backbones",
    "coco_annotations": "inference.coco",
    "differences": "plugins.backbones",
    "explanation_picture": "inference.explain",
    "export_model": "models.export.model",
    "initialise": "plugins.backbones",
    "load_model": "models.loading",
    "read_weights": "plugins.backbones",
    "recalibrate": "models.recalibration",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
