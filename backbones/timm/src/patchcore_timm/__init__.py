"""Any model of timm as a backbone: convolutional networks, plain transformers, transformers with windows.

Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models. Only `create` imports torch and
timm.
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
    """Name of the model in timm, with or without a tag: resnet18, resnet18.a1_in1k, vit_small_patch14_dinov2."""
    layers: tuple[int | str, ...] | None = None
    """Feature maps to use, by index or name in timm, such as 2,3 or layer2,layer3 or blocks.5,blocks.8; none for
    strides 8 and 16 or, in models without these, the blocks at 1/2 and 3/4 of the depth."""
    weights: str = "pretrained"
    """pretrained (downloaded once), random, or the path of a .pth or .safetensors file."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of random weights."""


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    """Return the backbone."""
    return [pp.BackboneSpec(name="timm", config=Config, create=create, summary="any timm model: set backbone.model")]


def create(config: Config) -> TimmFeatures:
    """Return the feature extractor of a timm model.

    Raises
    ------
    OptionError
        If the model or a layer does not exist.
    WeightsError
        If the weights are missing, unreadable, or belong to another network.
    """
    from ._features import create_features

    return create_features(config.model, layers=config.layers, weights=config.weights, seed=config.seed)
