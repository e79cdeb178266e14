"""Weights of timm models: from the hub, from its cache, from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import model_info, try_to_load_from_cache
from timm.models import get_pretrained_cfg, load_state_dict
from torch import nn

import patchcore_plugin as pp

CONNECT_SECONDS = 10.0
"""How long to wait for the hub before the network counts as missing."""


def load_pretrained(model: str, build: Callable[..., nn.Module]) -> nn.Module:
    """Return the model with timm's weights, downloaded when first used.

    Parameters
    ----------
    model
        timm's name, with or without a tag.
    build
        Makes the model; takes arguments of ``timm.create_model`` that say where weights come from.

    Raises
    ------
    WeightsError
        If there are none for this model, or they cannot be had.
    """
    source = get_pretrained_cfg(model)
    if source is None or not source.has_weights:
        raise pp.WeightsError(
            f"backbone timm: timm has no pretrained weights of {model}; "
            "choose another model, or give a weights file with backbone.weights=PATH"
        )
    overlay = {}
    try:
        if source.hf_hub_id and not source.custom_load:
            # timm asks the hub again and again for most of a minute, even where the file is in the cache.
            cached = try_to_load_from_cache(source.hf_hub_id, "model.safetensors")
            if isinstance(cached, str):
                overlay = {"file": cached}
            else:
                model_info(source.hf_hub_id, timeout=CONNECT_SECONDS)
        return build(pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # the clients of hubs and the readers of files have exceptions of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise pp.WeightsError(
            f"backbone timm: the pretrained weights of {model} cannot be had ({reason}): "
            "connect to the network once so that timm downloads them, "
            "or give a weights file with backbone.weights=PATH, or backbone.weights=random for a trial"
        ) from error


def load_file(model: str, network: nn.Module, weights: str) -> None:
    """Fill `network` from a file of named tensors, which must be those of the same model.

    Parameters
    ----------
    model
        timm's name, for messages.
    network
        The model without its classifier; what the file has for that is left out.
    weights
        Path of a .safetensors or .pth file, as timm saves the model or its training checkpoints.

    Raises
    ------
    WeightsError
        If there is no such file, it cannot be read without running its pickle, or it is of another network.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise pp.WeightsError(
            f"backbone timm: weights: no file {path}; "
            "give pretrained, random, or the path of a .pth or .safetensors file"
        )
    try:
        tensors = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # each format has its own exceptions for a damaged file
        raise pp.WeightsError(
            f"backbone timm: weights: {path} cannot be read as a .pth or .safetensors file of named tensors "
            f"({type(error).__name__}); save one with torch.save(network.state_dict(), PATH)"
        ) from error
    expected = network.state_dict()
    heads = _classifiers(network)
    got = {key: tensor for key, tensor in tensors.items() if key in expected or not key.startswith(heads)}
    problems = pp.differences(expected, got)
    if problems:
        raise pp.WeightsError(
            f"backbone timm: weights: {path} is of another network than {model}; tensors: {problems}; "
            "they must have timm's names, as in the file that timm downloads for the model"
        )
    network.load_state_dict(got)


def _classifiers(network: Any) -> tuple[str, ...]:
    """Return how the names of the classifier's tensors begin."""
    names = network.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
