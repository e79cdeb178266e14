"""Fills a network from a file of named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import patchcore_plugin as pp

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which of these names training scripts keep the network's tensors beside other things."""


def load_weights(network: nn.Module, weights: str, prefix: str) -> None:
    """Fill `network` from a file, which must have its tensors and no others.

    Parameters
    ----------
    network
        The network.
    weights
        Path of a .safetensors file, or of a .pth file with a state dict or a checkpoint that holds one.
    prefix
        What its tensors' names begin with in the file; others are left out.

    Raises
    ------
    WeightsError
        If there is no such file, it cannot be read without running its pickle, or it is of another network.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise pp.WeightsError(
            f"backbone module: weights: no file {path}; give the path of a .pth or .safetensors file, or factory"
        )
    expected = network.state_dict()
    tensors = _read(path)
    got = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    missing = [key for key in expected if key not in got]
    unexpected = [key for key in got if key not in expected]
    mismatched = [key for key in expected if key in got and got[key].shape != expected[key].shape]
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched))
        if keys
    ]
    if problems:
        raise pp.WeightsError(
            f"backbone module: weights: {path} is of another network; tensors: {'; '.join(problems)}"
            + _prefix_hint(expected, tensors)
        )
    network.load_state_dict(got)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own exceptions for a damaged file
        raise pp.WeightsError(
            f"backbone module: weights: {path} cannot be read as a .pth or .safetensors file of tensors "
            f"({type(error).__name__}); save one with torch.save(network.state_dict(), PATH)"
        ) from error
    if isinstance(content, Mapping):
        content = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), content)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise pp.WeightsError(
            f"backbone module: weights: {path} holds something else than named tensors; "
            "save the network with torch.save(network.state_dict(), PATH)"
        )
    return dict(content)


def _prefix_hint(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Say with which prefix the file would fit, if there is one."""
    first = next(iter(expected), "")
    for key in tensors:
        prefix = key.removesuffix(first)
        if prefix != key and all(prefix + name in tensors for name in expected):
            return f"; with backbone.prefix={prefix} they would fit" if prefix else ""
    return ""
