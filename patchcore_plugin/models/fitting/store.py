"""Patches of training images on disk, so that a fit that is broken off need not extract them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from patchcore_plugin.data.atomic import atomic_write, delete_unfinished
from patchcore_plugin.data.types import ImageLike
from patchcore_plugin.errors import ImageError, OptionError, PatchcoreError
from patchcore_plugin.plugins.protocols import Patches, hash_weights

SUFFIX = ".safetensors"
_ENTRY, _DIGEST = "features", "sha256"


class Seen(NamedTuple):
    """A training image: where it is, if it is a file, its height and width, and a thumbnail, if it is kept."""

    path: str | None
    shape: tuple[int, int]
    thumbnail: bytes | None = None


class Extracted(NamedTuple):
    """What came of a batch of images: patches from each of those who share it, none if no image can be read."""

    seen: list[Seen]
    skipped: list[ImageError]
    patches: list[Patches]


class FeatureStore:
    """A folder with one file for each batch of images, named after all that decides what is in it.

    So a batch is found only where settings and images are the same, and in no other case.

    Parameters
    ----------
    folder
        Where the files are; made if it is missing.
    settings
        What decides, beside the images, what is extracted: JSON-like.
    device
        Where patches are to be.

    Raises
    ------
    PatchcoreError
        If the folder cannot be made.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], device: torch.device) -> None:
        self._folder = folder
        self._device = device
        self._settings = json.dumps(settings, sort_keys=True)
        self._whole: dict[str, bool] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot(folder, error) from error

    def has(self, images: Sequence[ImageLike]) -> bool:
        """Tell whether there is a whole file of a batch; one that is damaged counts as none.

        Raises
        ------
        OptionError
            If an image is no file.
        """
        name = self._name(images)
        if name not in self._whole:
            self._whole[name] = self._read(name) is not None
        return self._whole[name]

    def load(self, images: Sequence[ImageLike]) -> Extracted:
        """Return what was saved of a batch that it `has`."""
        name = self._name(images)
        found = self._read(name)
        if found is None:
            raise PatchcoreError(f"{self._folder / name}: changed while it was read; start the fit again")
        tensors, content = found
        at = {name: tensor.to(self._device) for name, tensor in tensors.items() if not name.startswith("thumbnail.")}
        seen = [
            Seen(path, (height, width), _bytes(tensors.get(f"thumbnail.{number}")))
            for number, (path, height, width) in enumerate(content["seen"])
        ]
        skipped = []
        for message, place in content["skipped"]:
            skipped.append(ImageError(message))
            skipped[-1].path = place
        patches = [
            Patches(
                at[f"{number}.grid"],
                at.get(f"{number}.image"),
                None if levels is None else tuple(levels),
            )
            for number, levels in enumerate(content["levels"])
        ]
        return Extracted(seen, skipped, patches)

    def save(self, images: Sequence[ImageLike], extracted: Extracted) -> None:
        """Keep what came of a batch; the file is there when it is whole.

        Raises
        ------
        PatchcoreError
            If it cannot be written.
        """
        path = self._folder / self._name(images)
        tensors: dict[str, Tensor] = {}
        for number, patches in enumerate(extracted.patches):
            tensors[f"{number}.grid"] = patches.grid
            if patches.descriptors is not None:
                tensors[f"{number}.image"] = patches.descriptors
        for number, item in enumerate(extracted.seen):
            if item.thumbnail is not None:
                tensors[f"thumbnail.{number}"] = torch.from_numpy(np.frombuffer(bytearray(item.thumbnail), np.uint8))
        # Copies: a descriptor and a grid of one patch may be the same memory, which the format does not take.
        stored = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        content = {
            "name": path.name,
            "seen": [[item.path, *item.shape] for item in extracted.seen],
            "skipped": [[str(error), error.path] for error in extracted.skipped],
            "levels": [patches.levels for patches in extracted.patches],
            "sha256": hash_weights(stored),
        }
        described = json.dumps(content)
        try:
            with atomic_write(path) as unfinished:
                save_file(stored, unfinished, metadata={_ENTRY: described, _DIGEST: _digest(described)})
        except (OSError, SafetensorError) as error:
            raise _cannot(path, error) from error

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and description in a file; None if there is none, or it is not as it was written."""
        path = self._folder / name
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if _digest(metadata[_ENTRY]) != metadata[_DIGEST]:
                    return None
                content = json.loads(metadata[_ENTRY])
                tensors = {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118
            whole = content["name"] == name and hash_weights(tensors) == content["sha256"]
        except (SafetensorError, OSError, ValueError, KeyError):
            return None
        return (tensors, content) if whole else None

    def _name(self, images: Sequence[ImageLike]) -> str:
        described = [self._settings]
        for image in images:
            if not isinstance(image, str | Path):
                raise OptionError(
                    "features can be kept of images that are files, and some are arrays; write them first"
                )
            place = Path(image)
            # One that is not there is told by who reads it.
            state = place.stat() if place.is_file() else None
            stamp = None if state is None else (state.st_size, state.st_mtime_ns)
            described.append(json.dumps([str(image), str(place.resolve()), stamp]))
        return _digest("\n".join(described)) + SUFFIX


def discard(folder: Path) -> None:
    """Delete the files of a store, and the folder, if nothing else is in it; it need not be there."""
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink(missing_ok=True)
    delete_unfinished(folder, age=0)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _bytes(tensor: Tensor | None) -> bytes | None:
    return None if tensor is None else tensor.numpy().tobytes()


def _cannot(path: Path, error: Exception) -> PatchcoreError:
    reason = " ".join(str(error).split())
    return PatchcoreError(f"{path}: features cannot be kept ({reason}); free some space, or leave out --resume")
