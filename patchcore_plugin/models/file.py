"""Model files: tensors in one .safetensors file, and a JSON manifest in its metadata. No pickle."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from patchcore_plugin.data.atomic import atomic_write, delete_unfinished
from patchcore_plugin.errors import ModelFileError, PluginError, one_line
from patchcore_plugin.plugins.manager import Host
from patchcore_plugin.plugins.protocols import hash_weights
from patchcore_plugin.plugins.specs import ROLES

from .recipes import Recipe

FORMAT_VERSION = 2
"""The newest format that is read. A file is written in the oldest format that can hold it."""
_ENTRY = "patchcore"
_HEAD = 9
_GIVE = "pass a file written by patchcore fit or patchcore export"


def save(path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any], *, version: int = 1) -> None:
    """Write a model file, which replaces an older one when it is complete on disk.

    Parameters
    ----------
    path
        The file; its folder must exist.
    tensors
        The content.
    manifest
        JSON-like description.
    version
        Format of the file.

    Raises
    ------
    ModelFileError
        If the file cannot be written.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape)} for name, tensor in stored.items()}
    complete = {**manifest, "tensors": described, "sha256": hash_weights(stored)}
    content = {"format": version, "sha256": _digest(complete), "manifest": complete}
    # One entry, because several are written in random order, and equal models should give equal files.
    metadata = {_ENTRY: json.dumps(content, sort_keys=True)}
    try:
        with atomic_write(path) as unfinished:
            # The library would make a file that only its owner can read.
            unfinished.touch()
            mode = unfinished.stat().st_mode
            save_file(stored, unfinished, metadata=metadata)
            unfinished.chmod(mode)
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: cannot be written ({one_line(error)}); choose another --out") from error
    delete_unfinished(path.parent)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a model file.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, not a model file, or written by a newer version of this program.
    """
    require_file(path, "fit IMAGES")
    try:
        start = _head(path)
        if len(start) == _HEAD and not start.endswith(b"{"):
            raise ModelFileError(f"{path}: not a model file (.safetensors of patchcore, or an exported .onnx); {_GIVE}")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damage_error(path, one_line(error)) from error
    if _ENTRY not in metadata:
        raise ModelFileError(f"{path}: not a patchcore model file; create one with: patchcore fit")
    try:
        content = json.loads(metadata[_ENTRY])
        version, digest, manifest = content["format"], content["sha256"], content["manifest"]
    except (ValueError, TypeError, KeyError) as error:
        raise _damage_error(path, "its manifest cannot be read") from error
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: written in format {version}, newer than this version reads ({FORMAT_VERSION}); "
            "pip install --upgrade patchcore-plugin"
        )
    if not isinstance(version, int) or version < 1 or not isinstance(manifest, dict) or _digest(manifest) != digest:
        raise _damage_error(path, "its manifest does not match its checksum")
    return manifest


def require_file(path: Path, command: str) -> None:
    """Refuse a path that is not a file.

    Parameters
    ----------
    path
        The path.
    command
        The command that writes such a file with ``--out``, for the message, such as "fit IMAGES".

    Raises
    ------
    ModelFileError
        If the path does not exist, or is a folder.
    """
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder, not a model file; {_GIVE}")
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file; create it with: patchcore {command} --out {path}")


def is_safetensors(path: Path) -> bool:
    """Return whether a file starts like a safetensors file: a length of 8 bytes, then "{"."""
    return path.is_file() and _head(path)[8:] == b"{"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and manifest of a model file after checking names, shapes, dtypes, values and checksums.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, too new, or not a model file.
    """
    manifest = read_manifest(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damage_error(path, one_line(error)) from error
    described = {name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape)} for name, tensor in tensors.items()}
    if described != manifest["tensors"] or hash_weights(tensors) != manifest["sha256"]:
        raise _damage_error(path, "its tensors do not match their checksum")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise _damage_error(path, f"tensor {name} contains values that are not finite")
    return tensors, manifest


def require_components(path: Path, recipe: Recipe, manifest: Mapping[str, Any], host: Host) -> None:
    """Check that all components of a model are installed.

    Parameters
    ----------
    path
        The model file, for messages.
    recipe
        The recipe of one member.
    manifest
        The manifest of this member, which names the distributions of its components.
    host
        Provides the components.

    Raises
    ------
    ModelFileError
        If one is missing; the message says what to install.
    """
    for role in ROLES:
        try:
            host.component(role, recipe.choice(role).name)
        except PluginError as error:
            needed = manifest["plugins"][role]["distribution"]
            raise ModelFileError(
                f"{path}: needs {role} {recipe.choice(role).name!r}, which is not available here; "
                f"pip install --upgrade {needed} (details: patchcore plugins list)"
            ) from error


def software() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute, for a manifest."""
    packages = ("patchcore-plugin", "torch", "numpy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def _damage_error(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(f"{path}: damaged ({reason}); copy it again from its source, or fit again")


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
