"""Your own torch network as a backbone: a function that creates it, a weights file, and names of submodules.

Only `create` imports torch. The environment variable `ALLOWED` alone decides which functions may be called, because
options also come from model files, which are untrusted.
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
"""Environment variable with the full names of factories that may be imported and called, separated by commas."""

__all__ = ["ALLOWED", "Config", "patchcore_backbones"]

Positive = Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of your own network."""

    factory: str
    """Function that creates the network, as package.module:function or package.module:Class; must be listed in
    PATCHCORE_MODULE_FACTORIES."""
    layers: Annotated[tuple[str, ...], MinLen(1)]
    """Feature maps to use: names of submodules, as in named_modules(), with outputs [B, C, h, w]."""
    weights: str
    """Path of a .pth or .safetensors file with a state dict, or factory to keep the weights that the factory sets."""
    prefix: str = ""
    """Prefix of tensor names in the file, such as model.; tensors without it are ignored."""
    arguments: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Keyword arguments of the factory."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means (RGB, images in 0..1) to normalise the input with; by default those of ImageNet."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """Channel standard deviations, likewise."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Random seed of torch while the factory runs."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", self.factory):
            raise ValueError(
                f"option 'factory' must be package.module:function, such as my_networks:SmallNet, got {self.factory!r}"
            )


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    """Return the backbone."""
    return [
        pp.BackboneSpec(
            name="module", config=Config, create=create, summary="your own torch network: set backbone.factory"
        )
    ]


def create(config: Config) -> ModuleFeatures:
    """Return the feature extractor.

    Raises
    ------
    OptionError
        If the factory is not allowed, does not exist or fails, or the network has no such layer.
    WeightsError
        If the weights are missing, unreadable, or belong to another network.
    """
    from ._features import create_features

    return create_features(config)
