"""What a fit works on: images ready for the network, and the patch vectors of all training images."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from patchcore_plugin.data.images import as_image, read_image
from patchcore_plugin.data.thumbnails import encode_thumbnail
from patchcore_plugin.data.types import ImageLike, OnError
from patchcore_plugin.errors import ImageError
from patchcore_plugin.models.preprocessing import Geometry, geometry, prepare
from patchcore_plugin.models.recipes.recipe import Preprocessing
from patchcore_plugin.plugins.protocols import MemoryBank, Patches

from . import budget as memory

BATCH = 8
READERS = max(4, os.cpu_count() or 1)
"""Threads that decode and resize; both release Python's lock. A GPU takes what many cores decode."""


@dataclass(frozen=True)
class Input:
    """An image ready for the network."""

    path: str | None
    shape: Geometry
    tensor: Tensor
    thumbnail: bytes | None = None


class PatchBuffer:
    """Patches of images with equal grids, in one buffer that is allocated once.

    Parameters
    ----------
    capacity
        How many images there will be at most.
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
        """Append the patches of a batch of images.

        Raises
        ------
        PatchcoreError
            For the first batch, if what the capacity needs is not there.
        """
        images, height, width, dims = patches.grid.shape
        if self._buffer is None:
            size = patches.grid.element_size()
            self.needed = memory.check(self.capacity, height * width, dims, patches.grid.device, size)
            self._grid = (height, width)
            self._levels = patches.levels
            self._buffer = patches.grid.new_empty(self.capacity * height * width, dims)
        low = self._count * self._per_image
        self._buffer[low : low + images * self._per_image] = patches.grid.flatten(0, 2)
        if patches.descriptors is not None:
            self._descriptors += patches.descriptors.split(1)
        self._count += images

    @property
    def _per_image(self) -> int:
        return self._grid[0] * self._grid[1]

    def describe(self, seconds: float) -> str:
        """Say in a line what all images will take, if the ones that are here took so many seconds."""
        rest = seconds / len(self) * (self.capacity - len(self))
        return (
            f"{self.capacity} images make {self.capacity * self._per_image:,} patches of {self.vectors().shape[1]:,} "
            f"values: at most {self.needed / 1e9:.2g} GB of memory; reading the rest takes about {rest:.0f} s"
        )

    def vectors(self, images: int | None = None) -> Tensor:
        """Return the patch vectors of the first so many images, or of all: [images x h x w, D], not copied."""
        if self._buffer is None:
            raise ImageError("no image to fit on; give at least one readable image of a good part")
        return self._buffer[: (len(self) if images is None else images) * self._per_image]

    def patches(self, first: int, count: int = 1) -> Patches:
        """Return the patches of so many images, from one on."""
        rows = self.vectors(first + count)[first * self._per_image :]
        descriptors = torch.cat(self._descriptors[first : first + count]) if self._descriptors else None
        return Patches(rows.view(count, *self._grid, -1), descriptors, self._levels)

    def exchange(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Let images change places with as many others, patches and descriptors alike."""
        images = self.vectors().unflatten(0, (len(self), -1))
        # One by one: copies of a whole fold would be the most that a fit takes.
        for one, other in zip(some, others, strict=True):
            kept = images[one].clone()
            images[one] = images[other]
            images[other] = kept
            if self._descriptors:
                self._descriptors[one], self._descriptors[other] = self._descriptors[other], self._descriptors[one]

    def bank(self, index: Tensor, images: int | None = None) -> MemoryBank:
        """Return the bank of the rows of ``vectors(images)`` that a sampler chose."""
        image = index.div(self._per_image, rounding_mode="floor")
        place = index % self._per_image
        row, column = place.div(self._grid[1], rounding_mode="floor"), place % self._grid[1]
        vectors = self.vectors(images)
        descriptors = torch.cat(self._descriptors[:images]) if self._descriptors else None
        origin = torch.stack([image, row, column], dim=1)
        # Nobody changes what is in the buffer, so that a bank of all rows in order need not be a copy.
        every = len(index) == len(vectors) and bool((index == torch.arange(len(index), device=index.device)).all())
        return MemoryBank(vectors if every else vectors[index], origin, len(vectors), descriptors, self._levels)


def stacked(inputs: Sequence[Input]) -> Tensor:
    """Return the network's input of several images, [B, 3, h, w]."""
    return torch.stack([item.tensor for item in inputs])


def read_batches(
    images: Iterable[ImageLike], options: Preprocessing, on_error: OnError, *, thumbnails: bool = False
) -> Iterator[list[Input | ImageError]]:
    """Yield images in order, a few at a time; if skipping, the error of an unreadable one in its place.

    Threads read the next images while the caller works on a batch; at most two batches wait. Only the decoded
    input is kept, and a thumbnail if wanted, so that large images do not pile up.
    """

    def read(image: ImageLike) -> Input | ImageError:
        try:
            return _read(image, options, thumbnails)
        except ImageError as error:
            error.path = None if isinstance(image, np.ndarray) else str(image)
            return error

    remaining = iter(images)
    with ThreadPoolExecutor(READERS, thread_name_prefix="patchcore-read") as pool:
        ahead = deque(pool.submit(read, image) for image in islice(remaining, 2 * BATCH))
        try:
            while ahead:
                batch = [ahead.popleft().result() for _ in range(min(BATCH, len(ahead)))]
                ahead.extend(pool.submit(read, image) for image in islice(remaining, len(batch)))
                for place, item in enumerate(batch):
                    if isinstance(item, ImageError) and on_error == "stop":
                        if place:
                            yield batch[:place]
                        raise item
                yield batch
        finally:
            for future in ahead:
                future.cancel()


def _read(image: ImageLike, options: Preprocessing, thumbnails: bool) -> Input:
    path, pixels = (None, as_image(image)) if isinstance(image, np.ndarray) else (str(image), read_image(image))
    shape = geometry(options, (pixels.shape[0], pixels.shape[1]))
    return Input(path, shape, prepare(pixels, options), encode_thumbnail(pixels) if thumbnails else None)
