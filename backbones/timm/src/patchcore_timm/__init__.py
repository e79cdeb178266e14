"""Any model of timm as a backbone: convolutional networks, plain transformers, transformers with windows.

Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models. A plugin for
``patchcore_plugin``: this module imports neither torch nor timm, `create` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt

import patchcore_plugin as pp

if TYPE_CHECKING:
    from ._features import TimmFeatures

__all__ = ["Config", "patchcore_backbones"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of a timm backbone."""

    model: str
    """timm's name of the model, with or without a tag: resnet18, resnet18.a1_in1k, vit_small_patch14_dinov2."""
    layers: tuple[int | str, ...] | None = None
    """Which feature maps, by timm's index or name, such as 2,3 or layer2,layer3 or blocks.5,blocks.8; none for
    strides 8 and 16, or the blocks at half and at three quarters where there are no such strides."""
    weights: str = "pretrained"
    """Either pretrained (downloaded by timm once), random, or the path of a .pth or .safetensors file."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of random weights; the others do not depend on it."""


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    """Return the backbone."""
    return [pp.BackboneSpec(name="timm", config=Config, create=create, summary="any timm model: set backbone.model")]


def create(config: Config) -> TimmFeatures:
    """Return the feature extractor of a timm model.

    Raises
    ------
    OptionError
        If timm has no such model, or the model no such layer.
    WeightsError
        If the weights are missing, unreadable, or those of another network.
    """
    from ._features import create_features

    return create_features(config.model, layers=config.layers, weights=config.weights, seed=config.seed)
