"""Weights of timm models from the hub, from its cache, or from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import model_info, try_to_load_from_cache
from timm.models import get_pretrained_cfg, load_state_dict
from torch import nn

import patchcore_plugin as pp
from patchcore_plugin.errors import one_line

CONNECT_SECONDS = 10.0
"""Time limit for the connection to the hub."""


def load_pretrained(model: str, build: Callable[..., nn.Module]) -> nn.Module:
    """Return the model with pretrained weights, downloaded on first use.

    Parameters
    ----------
    model
        Name of the model, with or without a tag.
    build
        Function that creates the model; takes arguments of ``timm.create_model`` for the source of weights.

    Raises
    ------
    WeightsError
        If the model has none, or they cannot be downloaded.
    """
    source = get_pretrained_cfg(model)
    if source is None or not source.has_weights:
        raise pp.WeightsError(
            f"backbone timm: timm has no pretrained weights of {model}; "
            "choose another model, or set backbone.weights=PATH"
        )
    overlay = {}
    try:
        if source.hf_hub_id and not source.custom_load:
            # timm contacts the hub repeatedly for up to a minute, even if the file is in the cache.
            cached = try_to_load_from_cache(source.hf_hub_id, "model.safetensors")
            if isinstance(cached, str):
                overlay = {"file": cached}
            else:
                model_info(source.hf_hub_id, timeout=CONNECT_SECONDS)
        return build(pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # clients of hubs and readers of files have many exceptions
        raise pp.WeightsError(
            f"backbone timm: cannot download the pretrained weights of {model} ({one_line(error)}); "
            "connect to the internet once, or set backbone.weights=PATH, or backbone.weights=random for a trial"
        ) from error


def load_file(model: str, network: nn.Module, weights: str) -> None:
    """Load the weights of a model from a file with its tensors.

    Parameters
    ----------
    model
        Name of the model, for messages.
    network
        The model without its classifier, modified in place; tensors of the classifier are ignored.
    weights
        Path of a .safetensors or .pth file, as timm saves models or training checkpoints.

    Raises
    ------
    WeightsError
        If the file does not exist, cannot be read without running its pickle, or belongs to another network.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise pp.WeightsError(
            f"backbone timm: weights: no file {path}; "
            "pass pretrained, random, or the path of a .pth or .safetensors file"
        )
    try:
        tensors = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # each format has its own exceptions for a damaged file
        raise pp.WeightsError(
            f"backbone timm: weights: {path} cannot be read as a .pth or .safetensors file of tensors "
            f"({type(error).__name__}); save one with torch.save(network.state_dict(), PATH)"
        ) from error
    expected = network.state_dict()
    heads = _classifiers(network)
    loaded = {key: tensor for key, tensor in tensors.items() if key in expected or not key.startswith(heads)}
    problems = pp.differences(expected, loaded)
    if problems:
        raise pp.WeightsError(
            f"backbone timm: weights: {path} does not match {model}; tensors: {problems}; names must be those of timm"
        )
    network.load_state_dict(loaded)


def _classifiers(network: Any) -> tuple[str, ...]:
    """Return the prefixes of the tensors of the classifier."""
    names = network.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
