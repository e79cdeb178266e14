"""Images, file headers, video, data sets and synthetic data.

The functions below are imported on first use, so that listing data sets loads neither NumPy nor OpenCV.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .datasets import find_images, find_training_images, load_categories, load_category
    from .images import read_image, read_mask, write_png
    from .synthetic import draw_dataset

__all__ = [
    "draw_dataset",
    "find_images",
    "find_training_images",
    "load_categories",
    "load_category",
    "read_image",
    "read_mask",
    "write_png",
]

_MODULES = {
    "draw_dataset": "synthetic",
    "find_images": "datasets",
    "find_training_images": "datasets",
    "load_categories": "datasets",
    "load_category": "datasets",
    "read_image": "images",
    "read_mask": "images",
    "write_png": "images",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
