"""A network of one's own as a backbone: a function that makes it, a file with its weights, names of submodules.

A plugin for ``patchcore_plugin``: this module imports no torch, `create` does. Which functions may be called is
said by the environment variable `ALLOWED` alone, because options also come from model files of others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Lt, MinLen

import patchcore_plugin as pp

if TYPE_CHECKING:
    from ._features import ModuleFeatures

ALLOWED = "PATCHCORE_MODULE_FACTORIES"
"""Environment variable: the factories that may be imported and called, in full, separated by commas."""

__all__ = ["ALLOWED", "Config", "patchcore_backbones"]

Positive = Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of a network of one's own."""

    factory: str
    """What makes the network, as package.module:function or package.module:Class; PATCHCORE_MODULE_FACTORIES must
    list it."""
    layers: Annotated[tuple[str, ...], MinLen(1)]
    """Which feature maps: names of submodules, as in named_modules(), whose outputs are [B, C, h, w]."""
    weights: str
    """Path of a .pth or .safetensors file with the network's state dict, or factory: those that it comes with."""
    prefix: str = ""
    """What the names of the network's tensors begin with in the file, such as model.; others are left out."""
    arguments: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Keyword arguments of the factory."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means (RGB, images in 0..1) that the input is normalised with; ImageNet's by default."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """Channel standard deviations, likewise."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of what the factory draws from torch's generator."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", self.factory):
            raise ValueError(
                f"option 'factory' must be written package.module:function, such as my_networks:SmallNet, "
                f"got {self.factory!r}"
            )


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    """Return the backbone."""
    return [
        pp.BackboneSpec(
            name="module", config=Config, create=create, summary="a torch network of your own: set backbone.factory"
        )
    ]


def create(config: Config) -> ModuleFeatures:
    """Return the feature extractor of a network that the user's own code makes.

    Raises
    ------
    OptionError
        If the factory is not allowed, is not there or fails, or the network has no such layer.
    WeightsError
        If the weights are missing, unreadable, or those of another network.
    """
    from ._features import create_features

    return create_features(config)
