"""Reading a network's weights from a file that the user names, without running anything in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchcore_plugin.errors import WeightsError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which of these names training scripts keep the network's tensors beside other things."""


def read_weights(path: str | Path, owner: str, choices: str) -> dict[str, Tensor]:
    """Return the named tensors in a file.

    Parameters
    ----------
    path
        A .safetensors file, or a .pth file with a state dict, or with a checkpoint that holds one.
    owner
        Whose weights these are, for messages: ``backbone resnet18``.
    choices
        What the user can give instead of a file that is missing, for messages.

    Raises
    ------
    WeightsError
        If there is no such file, it cannot be read without running its pickle, or it holds something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"{owner}: weights: no file {path}; give {choices}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own exceptions for a damaged file
        raise WeightsError(
            f"{owner}: weights: {path} cannot be read as a .pth or .safetensors file of tensors "
            f"({type(error).__name__}); save one with torch.save(network.state_dict(), PATH)"
        ) from error
    if isinstance(content, Mapping):
        content = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), content)
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise WeightsError(
            f"{owner}: weights: {path} holds something else than named tensors; "
            "save the network with torch.save(network.state_dict(), PATH)"
        )
    return dict(content)


def differences(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str:
    """Say how the tensors of a file differ from a network's, by name and shape; nothing if they do not."""
    missing = [key for key in expected if key not in got]
    unexpected = [key for key in got if key not in expected]
    mismatched = [key for key in expected if key in got and got[key].shape != expected[key].shape]
    return "; ".join(
        f"{len(keys)} {what} ({', '.join(keys[:2])}{', ...' if len(keys) > 2 else ''})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched))
        if keys
    )
