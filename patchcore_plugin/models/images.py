"""Images read ahead by threads and prepared for the network, a batch at a time."""

from __future__ import annotations

import os
import struct
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcore_plugin.data.headers import HeaderError, read_header
from patchcore_plugin.data.images import as_image, read_image
from patchcore_plugin.data.thumbnails import encode_thumbnail
from patchcore_plugin.data.types import ImageLike, OnError
from patchcore_plugin.errors import ImageError

from .preprocessing import Geometry, geometry, prepare
from .recipes import Preprocessing

BATCH = 8
IN_FLIGHT = 384 * 2**20
"""Bytes that threads may use to decode and resize at a time; one image is always admitted, however large."""
BYTES_PER_PIXEL = 16
"""Peak memory of decoding and resizing: two copies of 8-bit RGB, and two of one channel in float32."""
KEPT_PIXELS = 2**25
"""Maximum number of pixels that a batch keeps, unless it has a single image; as many wait for the next batches."""


@dataclass(frozen=True)
class PreparedImage:
    """An image that is ready for the network.

    Parameters
    ----------
    path
        None if it was given as an array.
    shape
        How it was prepared.
    tensor
        Input of the network, float32 [3, h, w] in 0..1.
    thumbnail
        A small copy as a JPEG file, if asked for.
    pixels
        The decoded image, RGB [H, W, 3], if asked for.
    """

    path: str | None
    shape: Geometry
    tensor: Tensor
    thumbnail: bytes | None = None
    pixels: NDArray[Any] | None = None


class DecodedImage(NamedTuple):
    """An image as it was read: its path, None for an array, and its pixels, RGB [H, W, 3]."""

    path: str | None
    pixels: NDArray[Any]


T = TypeVar("T")


class _Reader(ABC, Generic[T]):
    """Reads images in threads, in order, and processes each of them there."""

    def __init__(self, on_error: OnError, *, keep_pixels: bool) -> None:
        self._on_error = on_error
        self._keep_pixels = keep_pixels

    @abstractmethod
    def _process(self, path: str | None, pixels: NDArray[Any]) -> T:
        """Return what becomes of an image."""

    def batches(self, images: Iterable[ImageLike]) -> Iterator[list[T | ImageError]]:
        """Yield images in order, up to `BATCH` at a time.

        Threads read the next images while the caller works on a batch; at most two batches wait. The memory of decoding
        is bounded, and so are kept pixels.

        Parameters
        ----------
        images
            Paths or arrays.

        Raises
        ------
        ImageError
            For an unreadable image, if errors are not skipped; a batch of the images before it comes first.
        """
        remaining = iter(images)
        budget = ByteBudget(IN_FLIGHT)
        with ThreadPoolExecutor(reader_count(), thread_name_prefix="patchcore-read") as pool:
            waiting: deque[tuple[Future[T | ImageError], int]] = deque()

            def read_ahead() -> None:
                while len(waiting) < 2 * BATCH and self._pixels_kept(waiting) <= KEPT_PIXELS:
                    try:
                        image = next(remaining)
                    except StopIteration:
                        return
                    count = _pixel_count(image)
                    # Waits here, in the order of images, so that a thread never holds pixels while it waits.
                    budget.acquire(count * BYTES_PER_PIXEL)
                    waiting.append((pool.submit(self._read, image, count, budget), count))

            try:
                read_ahead()
                while waiting:
                    batch = [waiting.popleft()]
                    while waiting and len(batch) < BATCH and self._pixels_kept([*batch, waiting[0]]) <= KEPT_PIXELS:
                        batch.append(waiting.popleft())
                    items = [future.result() for future, _ in batch]
                    read_ahead()
                    for place, item in enumerate(items):
                        if isinstance(item, ImageError) and self._on_error == "stop":
                            if place:
                                yield items[:place]
                            raise item
                    yield items
            finally:
                for future, _ in waiting:
                    future.cancel()

    def _pixels_kept(self, waiting: Iterable[tuple[object, int]]) -> int:
        """Return the number of pixels that images keep when they are read."""
        return sum(count for _, count in waiting) if self._keep_pixels else 0

    def _read(self, image: ImageLike, count: int, budget: ByteBudget) -> T | ImageError:
        path = None if isinstance(image, np.ndarray) else str(image)
        try:
            return self._process(path, as_image(image) if isinstance(image, np.ndarray) else read_image(image))
        except ImageError as error:
            error.path = path
            return error
        finally:
            budget.release(count * BYTES_PER_PIXEL)


class PixelReader(_Reader[DecodedImage]):
    """Reads images in threads, in order.

    Parameters
    ----------
    on_error
        "stop" to raise the error of an unreadable image, "skip" to yield it in the image's place.
    """

    def __init__(self, on_error: OnError = "stop") -> None:
        super().__init__(on_error, keep_pixels=True)

    def _process(self, path: str | None, pixels: NDArray[Any]) -> DecodedImage:
        return DecodedImage(path, pixels)


class ImageReader(_Reader[PreparedImage]):
    """Reads and prepares images in threads, in order.

    Parameters
    ----------
    options
        The recipe's preprocessing.
    on_error
        "stop" to raise the error of an unreadable image, "skip" to yield it in the image's place.
    thumbnails, keep_pixels
        Whether to keep these of each image.
    """

    def __init__(
        self,
        options: Preprocessing,
        on_error: OnError = "stop",
        *,
        thumbnails: bool = False,
        keep_pixels: bool = False,
    ) -> None:
        super().__init__(on_error, keep_pixels=keep_pixels)
        self._options = options
        self._thumbnails = thumbnails

    def _process(self, path: str | None, pixels: NDArray[Any]) -> PreparedImage:
        return PreparedImage(
            path,
            geometry(self._options, (pixels.shape[0], pixels.shape[1])),
            prepare(pixels, self._options),
            encode_thumbnail(pixels) if self._thumbnails else None,
            pixels if self._keep_pixels else None,
        )


class ByteBudget:
    """Bytes that threads may use together.

    Parameters
    ----------
    limit
        A request above it is granted as soon as nothing else is reserved.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reserved = 0
        self._changed = threading.Condition()

    def acquire(self, count: int) -> None:
        """Reserve bytes, as soon as there are enough."""
        with self._changed:
            self._changed.wait_for(lambda: not self._reserved or self._reserved + count <= self._limit)
            self._reserved += count

    def release(self, count: int) -> None:
        """Return reserved bytes."""
        with self._changed:
            self._reserved -= count
            self._changed.notify_all()


def reader_count() -> int:
    """Return the number of threads that read images: one for each CPU that the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def stack(images: Sequence[PreparedImage]) -> Tensor:
    """Return the network's input for several images, float32 [B, 3, h, w]."""
    return torch.stack([image.tensor for image in images])


def _pixel_count(image: ImageLike) -> int:
    """Return the pixels of an image from its header; 0 for a file without a readable one, which fails when read."""
    if isinstance(image, np.ndarray):
        return image.size // 3
    try:
        with Path(image).open("rb") as file:
            start = file.read(24)
            if start[12:16] == b"IHDR":  # the size of a PNG; `read_header` computes the checksum of all pixels
                width, height = struct.unpack_from(">II", start, 16)
            else:
                file.seek(0)
                height, width = read_header(file.read()).size
    except (OSError, HeaderError, struct.error):
        return 0
    return int(height * width)
