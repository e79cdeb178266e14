"""Loading of weights from a file of named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

import patchcore_plugin as pp


def load_weights(network: nn.Module, weights: str, prefix: str) -> None:
    """Load the weights of a network from a file with exactly its tensors.

    Parameters
    ----------
    network
        The network, modified in place.
    weights
        Path of a .safetensors file, or of a .pth file with a state dict or a checkpoint that holds one.
    prefix
        Prefix of tensor names in the file; tensors without it are ignored.

    Raises
    ------
    WeightsError
        If the file does not exist, cannot be read without running its pickle, or belongs to another network.
    """
    path = Path(weights).expanduser()
    tensors = pp.read_weights(path, "backbone module", "the path of a .pth or .safetensors file, or factory")
    expected = network.state_dict()
    loaded = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    problems = pp.differences(expected, loaded)
    if problems:
        raise pp.WeightsError(
            f"backbone module: weights: {path} belongs to another network; tensors: {problems}"
            + _prefix_hint(expected, tensors)
        )
    network.load_state_dict(loaded)


def _prefix_hint(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Return a hint with the prefix that matches the file, if there is one."""
    first = next(iter(expected), "")
    for key in tensors:
        prefix = key.removesuffix(first)
        if prefix != key and all(prefix + name in tensors for name in expected):
            return f"; set backbone.prefix={prefix}" if prefix else ""
    return ""
