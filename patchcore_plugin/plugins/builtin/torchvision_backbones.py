"""Backbones from torchvision: the networks of the paper and smaller ones.

Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265:
WideResNet-50 by default; WideResNet-101, ResNeXt-101 and DenseNet-201 for the ensemble; always the two middle stages.
DN2 (arXiv 2002.10445) uses ResNet-101, Gaussian-AD (arXiv 2005.14140) EfficientNet-B4.

Only `create` imports torch, so listing the plugin does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt

from patchcore_plugin.plugins.hookspecs import hookimpl
from patchcore_plugin.plugins.specs import BackboneSpec

if TYPE_CHECKING:
    from patchcore_plugin.plugins.protocols import Backbone

RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")
"""Strides 4, 8, 16, 32."""
DENSENET_LAYERS = ("denseblock1", "denseblock2", "denseblock3", "denseblock4")
"""Names in ``features`` of the network; strides 4, 8, 16, 32."""
EFFICIENTNET_LAYERS = ("stem", "stage1", "stage2", "stage3", "stage4", "stage5", "stage6", "stage7", "head")
"""Names for ``features.0`` to ``features.8`` of the network; strides 2, 2, 4, 8, 16, 16, 32, 32, 32."""


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Options of the ResNet family."""

    layers: tuple[str, ...] = ("layer2", "layer3")
    """Feature maps to use: layer1 (stride 4), layer2 (8), layer3 (16), layer4 (32)."""
    weights: str = "imagenet"
    """imagenet (IMAGENET1K_V1 of torchvision), random, or the path of a .pth or .safetensors file."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of random weights."""


@dataclass(frozen=True, kw_only=True)
class DenseNetConfig:
    """Options of the DenseNet family."""

    layers: tuple[str, ...] = ("denseblock2", "denseblock3")
    """Feature maps to use: denseblock1 (stride 4), denseblock2 (8), denseblock3 (16), denseblock4 (32)."""
    weights: str = "imagenet"
    """imagenet (IMAGENET1K_V1 of torchvision), random, or the path of a .pth or .safetensors file."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of random weights."""


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """Options of the EfficientNet family."""

    layers: tuple[str, ...] = ("stage3", "stage5")
    """Feature maps to use: stem and stage1 (stride 2), stage2 (4), stage3 (8), stage4 and stage5 (16), stage6, stage7
    and head (32)."""
    weights: str = "imagenet"
    """imagenet (IMAGENET1K_V1 of torchvision), random, or the path of a .pth or .safetensors file."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of random weights."""


Config = ResNetConfig | DenseNetConfig | EfficientNetConfig


@hookimpl
def patchcore_backbones() -> list[BackboneSpec]:
    """Return the torchvision backbones."""
    return [
        _resnet("wide_resnet50", "wide_resnet50_2", "WideResNet-50-2, the default of the paper"),
        _resnet("wide_resnet101", "wide_resnet101_2", "WideResNet-101-2, from the ensemble of the paper"),
        _resnet("resnet18", "resnet18", "ResNet-18, small and fast"),
        _resnet("resnet50", "resnet50", "ResNet-50"),
        _resnet("resnet101", "resnet101", "ResNet-101, used by DN2"),
        _resnet("resnext101", "resnext101_32x8d", "ResNeXt-101 32x8d, from the ensemble of the paper"),
        BackboneSpec(
            name="densenet201",
            config=DenseNetConfig,
            create=_creator("densenet201", "densenet201", DENSENET_LAYERS),
            summary="DenseNet-201, from the ensemble of the paper",
        ),
        BackboneSpec(
            name="efficientnet_b4",
            config=EfficientNetConfig,
            create=_creator("efficientnet_b4", "efficientnet_b4", EFFICIENTNET_LAYERS, "012345678"),
            summary="EfficientNet-B4, used by Gaussian-AD",
        ),
    ]


def _resnet(name: str, architecture: str, summary: str) -> BackboneSpec:
    create = _creator(name, architecture, RESNET_LAYERS)
    return BackboneSpec(name=name, config=ResNetConfig, create=create, summary=summary)


def _creator(
    name: str, architecture: str, available: Sequence[str], children: Sequence[str] | None = None
) -> Callable[[Config], Backbone]:
    """Return `create` for a network with `available` layers; `children` are their names in torchvision if different."""

    def create(config: Config) -> Backbone:
        from patchcore_plugin.plugins.backbones import check_layers

        from ._feature_maps import create_feature_maps

        # Checked before the network is truncated, so that the message lists all layers.
        check_layers(name, config.layers, available)
        layers = config.layers if children is None else [children[available.index(layer)] for layer in config.layers]
        return create_feature_maps(name, architecture, layers=layers, weights=config.weights, seed=config.seed)

    return create
