"""A fitted model over many images: runner, results, pictures, explanations and the folder watcher."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .coco import coco_annotations as coco_annotations
    from .coco import write_coco as write_coco
    from .explain import ExplanationPictures as ExplanationPictures
    from .explain import explanation_picture as explanation_picture
    from .rendering import draw_regions as draw_regions
    from .rendering import heat_map as heat_map
    from .rendering import overlay as overlay
    from .runner import FileResult as FileResult
    from .runner import Predictor as Predictor
    from .runner import predict_files as predict_files
    from .watch import Watch as Watch
    from .watch import WatchResult as WatchResult
    from .writer import ResultsWriter as ResultsWriter

_LAZY = {
    **dict.fromkeys(("coco_annotations", "write_coco"), "coco"),
    **dict.fromkeys(("ExplanationPictures", "explanation_picture"), "explain"),
    **dict.fromkeys(("draw_regions", "heat_map", "overlay"), "rendering"),
    **dict.fromkeys(("FileResult", "Predictor", "predict_files"), "runner"),
    **dict.fromkeys(("Watch", "WatchResult"), "watch"),
    "ResultsWriter": "writer",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
