"""A fitted model as one .safetensors file: tensors, and a JSON manifest in its metadata. No pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import ModelFileError
from .roles import hash_weights

FORMAT_VERSION = 1


def save(path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
    """Write a model file; the old one at `path` stays whole until the new one is complete on disk.

    Parameters
    ----------
    path
        Where to; its folder must exist.
    tensors
        What is stored.
    manifest
        JSON-like description.

    Raises
    ------
    ModelFileError
        If the file cannot be written.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {
        name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape)} for name, tensor in stored.items()
    }
    text = json.dumps({**manifest, "tensors": described, "sha256": hash_weights(stored)}, sort_keys=True)
    metadata = {"format": str(FORMAT_VERSION), "manifest": text, "sha256": _digest(text)}
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        save_file(stored, temporary, metadata=metadata)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: cannot be written ({_one_line(error)}); choose another --out") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a model file.

    Raises
    ------
    ModelFileError
        If there is no such file, it is damaged, no model, or written by a newer version of this program.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file; make one with: patchcore fit PHOTOS --out {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, _one_line(error)) from error
    if not {"format", "manifest", "sha256"} <= metadata.keys():
        raise ModelFileError(f"{path}: not a model file of this program; make one with: patchcore fit")
    version = metadata["format"]
    if version.isdecimal() and int(version) > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: written in format {version}, newer than this version reads ({FORMAT_VERSION}); "
            "pip install --upgrade patchcore-plugin"
        )
    if version != str(FORMAT_VERSION) or _digest(metadata["manifest"]) != metadata["sha256"]:
        raise _damaged(path, "its manifest does not match its checksum")
    manifest: dict[str, Any] = json.loads(metadata["manifest"])
    return manifest


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and manifest of a model file, checked: names, shapes, dtypes, values, checksums.

    Raises
    ------
    ModelFileError
        As `read_manifest`, and if the tensors are not those that the manifest describes.
    """
    manifest = read_manifest(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, _one_line(error)) from error
    described = {
        name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape)} for name, tensor in tensors.items()
    }
    if described != manifest["tensors"] or hash_weights(tensors) != manifest["sha256"]:
        raise _damaged(path, "its tensors do not match their checksum")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise _damaged(path, f"tensor {name} holds values that are not finite")
    return tensors, manifest


def _damaged(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(f"{path}: damaged ({reason}); copy it again from its source, or fit again")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _umask() -> int:
    # The only way to read it is to set it; a temporary file is otherwise readable by its owner alone.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
