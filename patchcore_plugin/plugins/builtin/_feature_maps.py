"""Cuts a torchvision network after the last layer asked for; imported by a backbone's `create` only."""

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

from patchcore_plugin.errors import WeightsError
from patchcore_plugin.plugins.staged import StagedBackbone, initialise
from patchcore_plugin.plugins.weights import differences, read_weights

HEADS = ("fc.", "classifier.")
"""Parameters of the classifiers, which no feature map needs: a weights file may lack or exchange them."""
COUNTER = "num_batches_tracked"
"""A training counter of batch normalisation, which older weights files lack and inference ignores."""
DOTTED = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")
CONNECT_SECONDS = 10.0
"""How long to wait for the server before the network counts as missing."""


def create_feature_maps(
    name: str, architecture: str, *, layers: Sequence[str], weights: str, seed: int
) -> StagedBackbone:
    """Build the part of a torchvision network up to the last of `layers`.

    Parameters
    ----------
    name
        The backbone's name, for messages.
    architecture
        torchvision's name of the network.
    layers
        Names of children of the network (of its ``features`` if it has them), in any order.
    weights
        "imagenet", "random", or the path of a .pth or .safetensors file of the whole network.
    seed
        Seed of "random".

    Raises
    ------
    WeightsError
        If the weights are missing, unreadable, or those of another network.
    """
    # On "meta" no memory is taken, no random number drawn, for layers that are thrown away again.
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    prefix = "features." if hasattr(network, "features") else ""
    stages = _cut(getattr(network, "features", network), layers)
    if weights == "random":
        initialise(stages.to_empty(device="cpu"), seed)
        return StagedBackbone(name, stages, layers, fold=True)

    path = _imagenet_file(name, architecture) if weights == "imagenet" else Path(weights).expanduser()
    tensors = read_weights(path, f"backbone {name}", "imagenet, random, or the path of a .pth or .safetensors file")
    # torchvision's DenseNet files predate a rule on names; its own loader renames in the same way.
    tensors = {DOTTED.sub(r"\1\2", key): tensor for key, tensor in tensors.items()}
    problems = differences(_without_head(network.state_dict()), _without_head(tensors))
    if problems:
        raise WeightsError(f"backbone {name}: weights: {path} is of another network; tensors: {problems}")
    kept = {
        key: torch.tensor(0) if key.endswith(COUNTER) else tensors[prefix + key].float() for key in stages.state_dict()
    }
    stages.load_state_dict(kept, assign=True)
    return StagedBackbone(name, stages, layers, fold=True)


def _cut(network: nn.Module, layers: Sequence[str]) -> nn.Sequential:
    """Return the children of `network` up to the last of `layers`; they run in their order."""
    children = list(network.named_children())
    last = max(index for index, (name, _) in enumerate(children) if name in layers)
    stages = nn.Sequential()
    for name, child in children[: last + 1]:
        stages.add_module(name, child)
    return stages


def _without_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: t for k, t in tensors.items() if not k.startswith(HEADS) and not k.endswith(COUNTER)}


def _imagenet_file(name: str, architecture: str) -> Path:
    """Return torchvision's weights file from its cache, downloading it the first time."""
    url = torchvision.models.get_model_weights(architecture).IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if path.is_file():
        return path
    try:
        # torch.hub waits for ever for a server that does not answer: ask with a time limit first.
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=CONNECT_SECONDS):
            pass
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise WeightsError(
            f"backbone {name}: the ImageNet weights are not on this computer and cannot be downloaded "
            f"({reason}): connect to the network once so that torchvision downloads them, "
            "or give a weights file with backbone.weights=PATH, "
            "or choose a backbone whose weights come with its package, "
            "such as efficientnet-lite0 from patchcore-efficientnet-lite"
        ) from error
    return path
