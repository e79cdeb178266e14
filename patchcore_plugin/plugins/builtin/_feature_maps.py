"""Torchvision networks up to the last requested layer; imported by `create` of the backbones only."""

from __future__ import annotations

import re
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import torch
import torchvision
from torch import Tensor, nn

from patchcore_plugin.errors import WeightsError, one_line
from patchcore_plugin.plugins.backbones import StagedBackbone, differences, initialise, read_weights

HEADS = ("fc.", "classifier.")
"""Parameters of the classifiers, which feature maps do not need; a weights file may lack or replace them."""
COUNTER = "num_batches_tracked"
"""Training counter of batch normalisation, which old weights files lack and inference ignores."""
OLD_DENSENET_KEY = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")
CONNECT_SECONDS = 10.0
"""Time limit for the connection to the download server."""


def create_feature_maps(
    name: str, architecture: str, *, layers: Sequence[str], weights: str, seed: int
) -> StagedBackbone:
    """Return a torchvision network up to the last of `layers` as a backbone.

    Parameters
    ----------
    name
        Name of the backbone, for messages.
    architecture
        Name of the network in torchvision.
    layers
        Names of children of the network (of its ``features`` if it has them), in any order.
    weights
        "imagenet", "random", or the path of a .pth or .safetensors file of the whole network.
    seed
        Seed of "random".

    Returns
    -------
    StagedBackbone
        The backbone, on the CPU.

    Raises
    ------
    WeightsError
        If the weights are missing, unreadable, or belong to another network.
    """
    # On the "meta" device, discarded layers take no memory and draw no random numbers.
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    prefix = "features." if hasattr(network, "features") else ""
    stages = _truncate(getattr(network, "features", network), layers)
    if weights == "random":
        initialise(stages.to_empty(device="cpu"), seed)
        return StagedBackbone(name, stages, layers, fold=True)

    path = _imagenet_file(name, architecture) if weights == "imagenet" else Path(weights).expanduser()
    tensors = read_weights(path, f"backbone {name}", "imagenet, random, or the path of a .pth or .safetensors file")
    # torchvision's DenseNet files use old names; its own loader renames them in the same way.
    tensors = {OLD_DENSENET_KEY.sub(r"\1\2", key): tensor for key, tensor in tensors.items()}
    problems = differences(_without_head(network.state_dict()), _without_head(tensors))
    if problems:
        raise WeightsError(f"backbone {name}: weights: {path} belongs to another network; tensors: {problems}")
    state = {
        key: torch.tensor(0) if key.endswith(COUNTER) else tensors[prefix + key].float() for key in stages.state_dict()
    }
    stages.load_state_dict(state, assign=True)
    return StagedBackbone(name, stages, layers, fold=True)


def _truncate(network: nn.Module, layers: Sequence[str]) -> nn.Sequential:
    """Return the children of `network` up to the last of `layers`, in order."""
    children = list(network.named_children())
    last = max(index for index, (name, _) in enumerate(children) if name in layers)
    stages = nn.Sequential()
    for name, child in children[: last + 1]:
        stages.add_module(name, child)
    return stages


def _without_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(HEADS) and not key.endswith(COUNTER)}


def _imagenet_file(name: str, architecture: str) -> Path:
    """Return the weights file in torchvision's cache; download it if it is not there."""
    url = torchvision.models.get_model_weights(architecture).IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if path.is_file():
        return path
    try:
        # torch.hub has no time limit for a server that does not answer, so ask with one first.
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=CONNECT_SECONDS):
            pass
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        reason = one_line(reason) if isinstance(reason, BaseException) else str(reason)
        raise WeightsError(
            f"backbone {name}: the ImageNet weights cannot be downloaded ({reason}); connect to the internet once, "
            "set backbone.weights=PATH, or choose efficientnet-lite0 from patchcore-efficientnet-lite, whose "
            "weights are installed with it"
        ) from error
    return path
