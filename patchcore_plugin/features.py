"""What a fit works on: photos ready for the network, and the patch vectors of all training photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import ImageError
from .images import as_photo, read_photo
from .preprocessing import Geometry, geometry, prepare
from .recipe import Preprocessing
from .roles import MemoryBank, Patches

Photo = str | Path | NDArray[Any]
OnError = Literal["stop", "skip"]

BATCH = 8


@dataclass(frozen=True)
class Input:
    """A photo ready for the network."""

    path: str | None
    shape: Geometry
    tensor: Tensor


class Features:
    """Patch vectors of training photos, in one buffer that is allocated once."""

    def __init__(self, photos: int, first: Patches) -> None:
        _, *self._grid, dims = first.grid.shape
        self._per_photo = self._grid[0] * self._grid[1]
        self._buffer = first.grid.new_empty(photos * self._per_photo, dims)
        self._descriptors: list[Tensor] = []
        self.photos: list[dict[str, Any]] = []
        self.shapes: list[Geometry] = []

    def add(self, inputs: Sequence[Input], patches: Patches) -> None:
        """Append a batch."""
        low = len(self.photos) * self._per_photo
        flat = patches.grid.flatten(0, 2)
        self._buffer[low : low + len(flat)] = flat
        if patches.image is not None:
            self._descriptors += patches.image.split(1)
        for item in inputs:
            height, width = item.shape.photo
            self.photos.append({"path": item.path, "height": height, "width": width})
            self.shapes.append(item.shape)

    @property
    def vectors(self) -> Tensor:
        """All patch vectors, [photos x h x w, D]."""
        return self._buffer[: len(self.photos) * self._per_photo]

    def patches(self, number: int) -> Patches:
        """Return the patches of one photo."""
        grid = self.vectors.view(len(self.photos), *self._grid, -1)[number : number + 1]
        return Patches(grid, self._descriptors[number] if self._descriptors else None)

    def without(self, numbers: NDArray[np.int64]) -> Subset:
        """Return the features of all other photos."""
        kept = np.setdiff1d(np.arange(len(self.photos)), numbers)
        every = self.vectors.view(len(self.photos), self._per_photo, -1)
        vectors = every[torch.from_numpy(kept).to(every.device)].flatten(0, 1)
        return Subset(vectors)

    def bank(self, index: Tensor) -> MemoryBank:
        """Return the bank of the rows of `vectors` that a sampler chose."""
        photo = index.div(self._per_photo, rounding_mode="floor")
        place = index % self._per_photo
        row, column = place.div(self._grid[1], rounding_mode="floor"), place % self._grid[1]
        vectors = self.vectors
        return MemoryBank(vectors[index], torch.stack([photo, row, column], dim=1), len(vectors))


@dataclass(frozen=True)
class Subset:
    """Patch vectors of some photos; origins do not matter where a bank only gives scores."""

    vectors: Tensor

    def bank(self, index: Tensor) -> MemoryBank:
        """Return the bank of the rows that a sampler chose."""
        origin = torch.zeros(len(index), 3, dtype=torch.int64, device=index.device)
        return MemoryBank(self.vectors[index], origin, len(self.vectors))


def read_batches(
    photos: Iterable[Photo], options: Preprocessing, on_error: OnError
) -> Iterator[list[Input | ImageError]]:
    """Yield photos in order, a few at a time; if skipping, the error of an unreadable one in its place."""
    batch: list[Input | ImageError] = []
    for photo in photos:
        try:
            batch.append(_read(photo, options))
        except ImageError as error:
            if on_error == "stop":
                raise
            batch.append(error)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(photo: Photo, options: Preprocessing) -> Input:
    is_array = isinstance(photo, np.ndarray)
    pixels = as_photo(photo) if isinstance(photo, np.ndarray) else read_photo(photo)
    shape = geometry(options, (pixels.shape[0], pixels.shape[1]))
    return Input(None if is_array else str(photo), shape, prepare(pixels, options))
