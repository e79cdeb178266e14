"""Fills a network from a file of named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

import patchcore_plugin as pp


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
    tensors = pp.read_weights(path, "backbone module", "the path of a .pth or .safetensors file, or factory")
    expected = network.state_dict()
    got = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    problems = pp.differences(expected, got)
    if problems:
        raise pp.WeightsError(
            f"backbone module: weights: {path} is of another network; tensors: {problems}"
            + _prefix_hint(expected, tensors)
        )
    network.load_state_dict(got)


def _prefix_hint(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Say with which prefix the file would fit, if there is one."""
    first = next(iter(expected), "")
    for key in tensors:
        prefix = key.removesuffix(first)
        if prefix != key and all(prefix + name in tensors for name in expected):
            return f"; with backbone.prefix={prefix} they would fit" if prefix else ""
    return ""
