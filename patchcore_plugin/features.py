"""What a fit works on: photos ready for the network, and the patch vectors of all training photos."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import memory
from .errors import ImageError
from .images import as_photo, read_photo
from .preprocessing import Geometry, geometry, prepare
from .recipe import Preprocessing
from .roles import MemoryBank, Patches
from .thumbnails import thumbnail

Photo = str | Path | NDArray[Any]
OnError = Literal["stop", "skip"]

BATCH = 8
READERS = max(4, os.cpu_count() or 1)
"""Threads that decode and resize; both release Python's lock. A GPU takes what many cores decode."""


@dataclass(frozen=True)
class Input:
    """A photo ready for the network."""

    path: str | None
    shape: Geometry
    tensor: Tensor
    thumbnail: bytes | None = None


class PatchBuffer:
    """Patches of photos with equal grids, in one buffer that is allocated once.

    Parameters
    ----------
    capacity
        How many photos there will be at most.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.needed = 0.0
        """Bytes that a fit takes at most; known after the first batch."""
        self._count = 0
        self._buffer: Tensor | None = None
        self._grid = (0, 0)
        self._descriptors: list[Tensor] = []
        self._levels: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self._count

    def add(self, patches: Patches) -> None:
        """Append the patches of a batch of photos.

        Raises
        ------
        PatchcoreError
            For the first batch, if what the capacity needs is not there.
        """
        photos, height, width, dims = patches.grid.shape
        if self._buffer is None:
            size = patches.grid.element_size()
            self.needed = memory.check(self.capacity, height * width, dims, patches.grid.device, size)
            self._grid = (height, width)
            self._levels = patches.levels
            self._buffer = patches.grid.new_empty(self.capacity * height * width, dims)
        low = self._count * self._per_photo
        self._buffer[low : low + photos * self._per_photo] = patches.grid.flatten(0, 2)
        if patches.image is not None:
            self._descriptors += patches.image.split(1)
        self._count += photos

    @property
    def _per_photo(self) -> int:
        return self._grid[0] * self._grid[1]

    def describe(self, seconds: float) -> str:
        """Say in a line what all photos will take, if the ones that are here took so many seconds."""
        rest = seconds / len(self) * (self.capacity - len(self))
        return (
            f"{self.capacity} photos make {self.capacity * self._per_photo:,} patches of {self.vectors().shape[1]:,} "
            f"values: at most {self.needed / 1e9:.2g} GB of memory; reading the rest takes about {rest:.0f} s"
        )

    def vectors(self, photos: int | None = None) -> Tensor:
        """Return the patch vectors of the first so many photos, or of all: [photos x h x w, D], not copied."""
        if self._buffer is None:
            raise ImageError("no photo to fit on; give at least one readable photo of a good part")
        return self._buffer[: (len(self) if photos is None else photos) * self._per_photo]

    def patches(self, first: int, count: int = 1) -> Patches:
        """Return the patches of so many photos, from one on."""
        rows = self.vectors(first + count)[first * self._per_photo :]
        image = torch.cat(self._descriptors[first : first + count]) if self._descriptors else None
        return Patches(rows.view(count, *self._grid, -1), image, self._levels)

    def exchange(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Let photos change places with as many others, patches and descriptors alike."""
        photos = self.vectors().unflatten(0, (len(self), -1))
        # One by one: copies of a whole fold would be the most that a fit takes.
        for one, other in zip(some, others, strict=True):
            kept = photos[one].clone()
            photos[one] = photos[other]
            photos[other] = kept
            if self._descriptors:
                self._descriptors[one], self._descriptors[other] = self._descriptors[other], self._descriptors[one]

    def bank(self, index: Tensor, photos: int | None = None) -> MemoryBank:
        """Return the bank of the rows of ``vectors(photos)`` that a sampler chose."""
        photo = index.div(self._per_photo, rounding_mode="floor")
        place = index % self._per_photo
        row, column = place.div(self._grid[1], rounding_mode="floor"), place % self._grid[1]
        vectors = self.vectors(photos)
        images = torch.cat(self._descriptors[:photos]) if self._descriptors else None
        origin = torch.stack([photo, row, column], dim=1)
        # Nobody changes what is in the buffer, so that a bank of all rows in order need not be a copy.
        every = len(index) == len(vectors) and bool((index == torch.arange(len(index), device=index.device)).all())
        return MemoryBank(vectors if every else vectors[index], origin, len(vectors), images, self._levels)


def stacked(inputs: Sequence[Input]) -> Tensor:
    """Return the network's input of several photos, [B, 3, h, w]."""
    return torch.stack([item.tensor for item in inputs])


def read_batches(
    photos: Iterable[Photo], options: Preprocessing, on_error: OnError, *, thumbnails: bool = False
) -> Iterator[list[Input | ImageError]]:
    """Yield photos in order, a few at a time; if skipping, the error of an unreadable one in its place.

    Threads read the next photos while the caller works on a batch; at most two batches wait. Only the decoded
    input is kept, and a thumbnail if wanted, so that large photos do not pile up.
    """

    def read(photo: Photo) -> Input | ImageError:
        try:
            return _read(photo, options, thumbnails)
        except ImageError as error:
            error.path = None if isinstance(photo, np.ndarray) else str(photo)
            return error

    remaining = iter(photos)
    with ThreadPoolExecutor(READERS, thread_name_prefix="patchcore-read") as pool:
        ahead = deque(pool.submit(read, photo) for photo in islice(remaining, 2 * BATCH))
        try:
            while ahead:
                batch = [ahead.popleft().result() for _ in range(min(BATCH, len(ahead)))]
                ahead.extend(pool.submit(read, photo) for photo in islice(remaining, len(batch)))
                for place, item in enumerate(batch):
                    if isinstance(item, ImageError) and on_error == "stop":
                        if place:
                            yield batch[:place]
                        raise item
                yield batch
        finally:
            for future in ahead:
                future.cancel()


def _read(photo: Photo, options: Preprocessing, thumbnails: bool) -> Input:
    path, pixels = (None, as_photo(photo)) if isinstance(photo, np.ndarray) else (str(photo), read_photo(photo))
    shape = geometry(options, (pixels.shape[0], pixels.shape[1]))
    return Input(path, shape, prepare(pixels, options), thumbnail(pixels) if thumbnails else None)
