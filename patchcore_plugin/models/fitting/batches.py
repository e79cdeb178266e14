"""Training images as batches of patches: read, prepared, and passed through backbone and aggregator."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from patchcore_plugin.data.types import ImageLike
from patchcore_plugin.errors import ImageError
from patchcore_plugin.models.images import BATCH, ImageReader, PreparedImage, stack
from patchcore_plugin.models.pipeline import Pipeline
from patchcore_plugin.plugins.protocols import Patches

from .store import FeatureStore


class TrainingImage(NamedTuple):
    """A readable training image.

    Parameters
    ----------
    number
        Its position among the images passed to the fit.
    path
        None if it was given as an array.
    size
        Height and width in pixels.
    thumbnail
        A JPEG file, if thumbnails are kept.
    """

    number: int
    path: str | None
    size: tuple[int, int]
    thumbnail: bytes | None = None


class FeatureBatch(NamedTuple):
    """The patches of consecutive training images.

    Parameters
    ----------
    images
        The readable images.
    errors
        Errors of the unreadable images.
    patches
        Patches of the readable images; None if there are none.
    held_out
        Whether the images are scored before they are added to the fit.
    from_store
        Whether the patches were on disk.
    """

    images: list[TrainingImage]
    errors: list[ImageError]
    patches: Patches | None
    held_out: bool = False
    from_store: bool = False


def feature_batches(
    images: Sequence[ImageLike],
    pipeline: Pipeline,
    reader: ImageReader,
    held_out: Collection[int] = (),
    store: FeatureStore | None = None,
) -> Iterator[FeatureBatch]:
    """Yield the patches of training images, those that are held out last.

    Parameters
    ----------
    images
        Paths or arrays.
    pipeline
        Extracts the patches.
    reader
        Reads and prepares the images.
    held_out
        Indices of the images that are held out.
    store
        Keeps patches on disk, and supplies those that it has.

    Raises
    ------
    ImageError
        For an unreadable image, if the reader does not skip it.
    PatchcoreError
        If patches cannot be kept.
    """
    last = frozenset(held_out)
    first = [index for index in range(len(images)) if index not in last]
    for indices, is_held_out in ((first, False), (sorted(last), True)):
        parts = [indices[low : low + BATCH] for low in range(0, len(indices), BATCH)]
        for batch in _batches(images, parts, pipeline, reader, store):
            yield batch._replace(held_out=is_held_out)


def sample_patches(images: Sequence[ImageLike], pipeline: Pipeline, reader: ImageReader) -> Patches | None:
    """Return the patches of the first readable image; None if there is none.

    Parameters
    ----------
    images
        Paths or arrays.
    pipeline
        Extracts the patches.
    reader
        Reads the images.
    """
    prepared = (item for batch in reader.batches(images) for item in batch if isinstance(item, PreparedImage))
    first = next(prepared, None)
    return None if first is None else pipeline.patches(stack([first]))


def _batches(
    images: Sequence[ImageLike],
    parts: Sequence[Sequence[int]],
    pipeline: Pipeline,
    reader: ImageReader,
    store: FeatureStore | None,
) -> Iterator[FeatureBatch]:
    def is_stored(part: Sequence[int]) -> bool:
        return store is not None and store.has([images[index] for index in part])

    fresh = reader.batches(images[index] for part in parts if not is_stored(part) for index in part)
    for part in parts:
        if store is not None and is_stored(part):
            contents, errors, patches = store.load([images[index] for index in part])
            training = [TrainingImage(part[place], path, size, jpeg) for place, path, size, jpeg in contents]
            yield FeatureBatch(training, errors, patches, from_store=True)
            continue
        count = 0
        while count < len(part):  # an unreadable image that stops the fit cuts a batch in two
            prepared = next(fresh)
            batch = _extract(prepared, part[count : count + len(prepared)], pipeline)
            count += len(prepared)
            if store is not None and len(prepared) == len(part):
                contents = [(part.index(number), path, size, jpeg) for number, path, size, jpeg in batch.images]
                store.save([images[index] for index in part], contents, batch.errors, batch.patches)
            yield batch


def _extract(
    prepared: Sequence[PreparedImage | ImageError], indices: Sequence[int], pipeline: Pipeline
) -> FeatureBatch:
    readable = [(index, item) for index, item in zip(indices, prepared, strict=True) if isinstance(item, PreparedImage)]
    errors = [item for item in prepared if isinstance(item, ImageError)]
    if not readable:
        return FeatureBatch([], errors, None)
    patches = pipeline.patches(stack([item for _, item in readable]))
    # Contiguous as from the store, so that sums have one order of addition and are bit-equal.
    patches = replace(patches, grid=patches.grid.contiguous())
    training = [TrainingImage(index, item.path, item.shape.image, item.thumbnail) for index, item in readable]
    return FeatureBatch(training, errors, patches)
