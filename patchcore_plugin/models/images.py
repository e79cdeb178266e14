"""Images read ahead by threads and prepared for the network, a batch at a time."""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcore_plugin.data.images import as_image, read_image
from patchcore_plugin.data.thumbnails import thumbnail
from patchcore_plugin.data.types import ImageLike, OnError
from patchcore_plugin.errors import ImageError

from .preprocessing import Geometry, geometry, prepare
from .recipes import Preprocessing

BATCH = 8
IN_FLIGHT = 256 * 2**20
"""Bytes of pixels that threads decode and resize at a time; one larger image is always admitted."""
BYTES_PER_PIXEL = 3 * (2 + 4 + 4)
"""Peak memory of decoding and resizing: RGB as decoded, as float32, and one more copy."""


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


class ImageReader:
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
        self._options = options
        self._on_error = on_error
        self._thumbnails = thumbnails
        self._keep_pixels = keep_pixels
        self._budget = ByteBudget(IN_FLIGHT)

    def batches(self, images: Iterable[ImageLike]) -> Iterator[list[PreparedImage | ImageError]]:
        """Yield images in order, up to `BATCH` at a time.

        Threads read the next images while the caller works on a batch; at most two batches wait. Decoded pixels are
        dropped as soon as the network's input is made, and their bytes in flight are bounded.

        Raises
        ------
        ImageError
            For an unreadable image, if errors are not skipped; a batch of the images before it comes first.
        """
        remaining = iter(images)
        with ThreadPoolExecutor(reader_count(), thread_name_prefix="patchcore-read") as pool:
            ahead = deque(pool.submit(self._read, image) for image in islice(remaining, 2 * BATCH))
            try:
                while ahead:
                    batch = [ahead.popleft().result() for _ in range(min(BATCH, len(ahead)))]
                    ahead.extend(pool.submit(self._read, image) for image in islice(remaining, len(batch)))
                    for place, item in enumerate(batch):
                        if isinstance(item, ImageError) and self._on_error == "stop":
                            if place:
                                yield batch[:place]
                            raise item
                    yield batch
            finally:
                for future in ahead:
                    future.cancel()

    def _read(self, image: ImageLike) -> PreparedImage | ImageError:
        path = None if isinstance(image, np.ndarray) else str(image)
        try:
            with self._budget.reserve(_pixel_count(image) * BYTES_PER_PIXEL):
                pixels = as_image(image) if isinstance(image, np.ndarray) else read_image(image)
                shape = geometry(self._options, (pixels.shape[0], pixels.shape[1]))
                return PreparedImage(
                    path,
                    shape,
                    prepare(pixels, self._options),
                    thumbnail(pixels) if self._thumbnails else None,
                    pixels if self._keep_pixels else None,
                )
        except ImageError as error:
            error.path = path
            return error


class ByteBudget:
    """Bytes that threads may use together; a thread waits until there are enough.

    Parameters
    ----------
    limit
        A request above it is granted as soon as nothing else is reserved.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reserved = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Reserve bytes until the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._reserved or self._reserved + count <= self._limit)
            self._reserved += count
        try:
            yield
        finally:
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
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(Path(image)) as file:
                return file.width * file.height
    except Exception:  # whatever the header of an unreadable file causes; reading it reports the error
        return 0
