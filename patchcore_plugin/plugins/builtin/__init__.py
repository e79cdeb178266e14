"""The built-in plugins, registered through the same hooks as third-party ones."""

from __future__ import annotations

from types import ModuleType

from . import (
    average_pool,
    faiss_knn,
    gaussian,
    global_pool,
    greedy_coreset,
    image_scorers,
    knn,
    pyramid_knn,
    simple_samplers,
    torchvision_backbones,
)

PLUGINS: dict[str, ModuleType] = {
    "torchvision": torchvision_backbones,
    "average-pool": average_pool,
    "global-pool": global_pool,
    "greedy-coreset": greedy_coreset,
    "simple-samplers": simple_samplers,
    "knn": knn,
    "faiss": faiss_knn,
    "gaussian": gaussian,
    "pyramid-knn": pyramid_knn,
    "image-scorers": image_scorers,
}
"""The modules by plugin name."""
