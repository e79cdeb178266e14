"""The shipped plugins, registered through the same hooks as anyone's."""

from __future__ import annotations

from types import ModuleType

from . import average_pool, faiss_knn, greedy_coreset, knn, simple_samplers, torchvision_backbones

PLUGINS: dict[str, ModuleType] = {
    "torchvision": torchvision_backbones,
    "average-pool": average_pool,
    "greedy-coreset": greedy_coreset,
    "simple-samplers": simple_samplers,
    "knn": knn,
    "faiss": faiss_knn,
}
"""The modules, by the plugin name that they are listed and blocked under."""
