"""Patches of training images on disk, so that an interrupted fit can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from patchcore_plugin.data.atomic import atomic_write, delete_unfinished
from patchcore_plugin.data.types import ImageLike
from patchcore_plugin.errors import ImageError, OptionError, PatchcoreError, one_line
from patchcore_plugin.plugins.protocols import Patches, hash_weights

SUFFIX = ".safetensors"
_ENTRY, _DIGEST = "features", "sha256"


StoredImage: TypeAlias = tuple[int, str | None, tuple[int, int], bytes | None]
"""Place in the batch, path, height and width, and thumbnail of an image."""


class FeatureStore:
    """A folder with one file per batch of training images, named by a hash of everything that its content depends on.

    A batch is found only if settings, paths, sizes and modification times of the images are the same.

    Parameters
    ----------
    folder
        Created if it is missing.
    settings
        Everything that the patches depend on apart from the images, as JSON-like data.
    device
        Device that patches are loaded to.

    Raises
    ------
    PatchcoreError
        If the folder cannot be created.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], device: torch.device) -> None:
        self._folder = folder
        self._device = device
        self._settings = json.dumps(settings, sort_keys=True)
        self._is_whole: dict[str, bool] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _write_error(folder, error) from error

    def has(self, images: Sequence[ImageLike]) -> bool:
        """Return whether there is a complete file of a batch; a damaged one counts as missing.

        Raises
        ------
        OptionError
            If an image is not a file.
        """
        name = self._name(images)
        if name not in self._is_whole:
            self._is_whole[name] = self._read(name) is not None
        return self._is_whole[name]

    def load(self, images: Sequence[ImageLike]) -> tuple[list[StoredImage], list[ImageError], Patches | None]:
        """Return a stored batch: readable images, errors of the unreadable ones, and patches.

        Raises
        ------
        PatchcoreError
            If the file has disappeared or changed since `has` returned true.
        """
        name = self._name(images)
        content_of_file = self._read(name)
        if content_of_file is None:
            raise PatchcoreError(f"{self._folder / name}: changed while it was read; start the fit again")
        tensors, content = content_of_file
        stored = [
            (place, path, (height, width), _bytes(tensors.get(f"thumbnail.{place}")))
            for place, path, height, width in content["images"]
        ]
        errors = []
        for message, path in content["errors"]:
            errors.append(ImageError(message))
            errors[-1].path = path
        if "grid" not in tensors:
            return stored, errors, None
        levels, descriptors = content["levels"], tensors.get("descriptors")
        patches = Patches(
            tensors["grid"].to(self._device),
            None if descriptors is None else descriptors.to(self._device),
            None if levels is None else tuple(levels),
        )
        return stored, errors, patches

    def save(
        self,
        images: Sequence[ImageLike],
        readable: Sequence[StoredImage],
        errors: Sequence[ImageError],
        patches: Patches | None,
    ) -> None:
        """Write the file of a batch; it appears when it is complete.

        Parameters
        ----------
        images
            All images of the batch.
        readable
            Position, path, size and thumbnail of each image that was read.
        errors
            The errors of the others.
        patches
            Patches of the readable images; None if there are none.

        Raises
        ------
        PatchcoreError
            If it cannot be written.
        """
        path = self._folder / self._name(images)
        tensors: dict[str, Tensor] = {}
        if patches is not None:
            tensors["grid"] = patches.grid
            if patches.descriptors is not None:
                tensors["descriptors"] = patches.descriptors
        for place, _, _, thumbnail in readable:
            if thumbnail is not None:
                tensors[f"thumbnail.{place}"] = torch.from_numpy(np.frombuffer(bytearray(thumbnail), np.uint8))
        # Copies, because descriptors and a grid of one patch may share memory, which the format does not allow.
        stored = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        content = {
            "name": path.name,
            "images": [[place, source, *size] for place, source, size, _ in readable],
            "errors": [[str(error), error.path] for error in errors],
            "levels": None if patches is None else patches.levels,
            "sha256": hash_weights(stored),
        }
        description = json.dumps(content)
        try:
            with atomic_write(path) as unfinished:
                save_file(stored, unfinished, metadata={_ENTRY: description, _DIGEST: _digest(description)})
        except (OSError, SafetensorError) as error:
            raise _write_error(path, error) from error

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and description in a file; None if it is missing or damaged."""
        path = self._folder / name
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if _digest(metadata[_ENTRY]) != metadata[_DIGEST]:
                    return None
                content = json.loads(metadata[_ENTRY])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            whole = content["name"] == name and hash_weights(tensors) == content["sha256"]
        except (SafetensorError, OSError, ValueError, KeyError):
            return None
        return (tensors, content) if whole else None

    def _name(self, images: Sequence[ImageLike]) -> str:
        described = [self._settings]
        for image in images:
            if not isinstance(image, str | Path):
                raise OptionError("features can be kept for image files only; write the arrays to files first")
            place = Path(image)
            state = place.stat() if place.is_file() else None
            stamp = None if state is None else (state.st_size, state.st_mtime_ns)
            described.append(json.dumps([str(image), str(place.resolve()), stamp]))
        return _digest("\n".join(described)) + SUFFIX


def discard(folder: Path) -> None:
    """Delete the files of a store if it exists, and the folder if nothing else is in it."""
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink(missing_ok=True)
    delete_unfinished(folder, age=0)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _bytes(tensor: Tensor | None) -> bytes | None:
    return None if tensor is None else tensor.numpy().tobytes()


def _write_error(path: Path, error: Exception) -> PatchcoreError:
    return PatchcoreError(f"{path}: cannot be written ({one_line(error)}); free some space, or leave out --resume")
