"""Images to whoever works on them, a batch at a time: good ones in the order of a fit, others in their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple, TypeVar, cast

from torch import Tensor

from patchcore_plugin.data.types import ImageLike, OnError, Progress
from patchcore_plugin.errors import ImageError
from patchcore_plugin.models.calibration import GoodImage, fit_order
from patchcore_plugin.models.prediction import Prediction
from patchcore_plugin.models.preprocessing import anomaly_map, geometry
from patchcore_plugin.models.recipes.recipe import Preprocessing, Recipe
from patchcore_plugin.plugins.protocols import Patches

from .inputs import BATCH, Input, read_batches, stacked
from .learners import Judged
from .store import Extracted, FeatureStore, Seen

S = TypeVar("S")
T = TypeVar("T")


class Read(NamedTuple):
    """The images of a fit: those that were not held out, those that were, and what was wrong with others."""

    early: list[Seen]
    late: list[Seen]
    skipped: list[ImageError]

    def source(self, judged: int, judging: str) -> str:
        """Say in words of which images the scores for a threshold are."""
        images = len(self.early) + len(self.late)
        return f"scores of {judged if judged == images else f'{judged} of {images}'} good images, {judging}"

    def scored(self, scores: Sequence[float]) -> list[tuple[str | None, float]]:
        """Return paths of the images, the last ones, that got these scores, and the scores."""
        images = self.early + self.late
        return [(image.path, score) for image, score in zip(images[len(images) - len(scores) :], scores, strict=True)]

    def good(self, judged: Sequence[Judged], recipe: Recipe) -> list[GoodImage]:
        """Return what is known of the images, the last ones, that were judged by a model that does not know them."""
        images = (self.early + self.late)[len(self.early) + len(self.late) - len(judged) :]
        return [
            GoodImage.of(
                found.score,
                None
                if found.map is None
                else anomaly_map(found.map, geometry(recipe.preprocessing, image.shape), recipe.map),
            )
            for found, image in zip(judged, images, strict=True)
        ]


def read_good(
    images: Sequence[ImageLike],
    options: Preprocessing,
    seed: int,
    *,
    extract: Callable[[Tensor], Sequence[Patches]],
    learn: Callable[[Sequence[Patches]], object],
    hold_out: Callable[[], object],
    on_error: OnError,
    thumbnails: bool = False,
    store: FeatureStore | None = None,
    progress: Progress | None = None,
    announce: Callable[[float], object] | None = None,
) -> Read:
    """Read the images of a fit, those that are held out last.

    Parameters
    ----------
    images
        Good images.
    options
        How they are prepared.
    seed
        Chooses which are held out.
    extract
        Called with each batch of network inputs, [B, 3, h, w]; returns their patches, for each who learns from them.
    learn
        Called with these.
    hold_out
        Called when the batches to come are held out.
    on_error
        Whether an unreadable image stops it, or is left out.
    thumbnails
        Whether each image's thumbnail is kept.
    store
        Where patches are kept, and taken from if they are there.
    progress
        Called with "reading images", and how many of how many are done.
    announce
        Called once, after the first batch that was extracted, with the seconds that all so far would have taken.

    Raises
    ------
    ImageError
        For an unreadable image, if `on_error` is "stop".
    """
    early, late = fit_order(len(images), seed)
    skipped: list[ImageError] = []
    done = good = 0

    def show(numbers: Sequence[int]) -> list[Seen]:
        nonlocal announce, done, good
        seen: list[Seen] = []
        start = time.perf_counter()
        for batch, is_new in _batches(
            [images[number] for number in numbers], options, on_error, extract, thumbnails=thumbnails, store=store
        ):
            skipped.extend(batch.skipped)
            seen += batch.seen
            done += len(batch.seen) + len(batch.skipped)
            good += len(batch.seen)
            if batch.patches:
                learn(batch.patches)
                if announce is not None and is_new:
                    announce((time.perf_counter() - start) * good / len(batch.seen))
                    announce = None
            start = time.perf_counter()
            if progress is not None:
                progress("reading images", done, len(images))
        return seen

    known = show(early.tolist())
    hold_out()
    return Read(known, show(late.tolist()), skipped)


def first_patches(
    images: Sequence[ImageLike],
    options: Preprocessing,
    seed: int,
    on_error: OnError,
    extract: Callable[[Tensor], Sequence[Patches]],
) -> Sequence[Patches]:
    """Return the patches of the first readable image of a fit, to know what all will take; none if there is none."""
    early, _ = fit_order(len(images), seed)
    batches = read_batches([images[number] for number in early], options, on_error)
    first = next((item for batch in batches for item in batch if isinstance(item, Input)), None)
    return [] if first is None else extract(stacked([first]))


def _batches(
    images: Sequence[ImageLike],
    options: Preprocessing,
    on_error: OnError,
    extract: Callable[[Tensor], Sequence[Patches]],
    *,
    thumbnails: bool,
    store: FeatureStore | None,
) -> Iterator[tuple[Extracted, bool]]:
    """Yield what comes of images, a batch at a time, and whether it is new, not from the store."""
    parts = [images[low : low + BATCH] for low in range(0, len(images), BATCH)]
    missing = (image for part in parts if store is None or not store.has(part) for image in part)
    fresh = read_batches(missing, options, on_error, thumbnails=thumbnails)
    for part in parts:
        if store is not None and store.has(part):
            yield store.load(part), False
            continue
        read = 0
        while read < len(part):  # where an unreadable image stops it, those before it come first
            batch = next(fresh)
            read += len(batch)
            good = [item for item in batch if isinstance(item, Input)]
            extracted = Extracted(
                [Seen(item.path, item.shape.image, item.thumbnail) for item in good],
                [item for item in batch if isinstance(item, ImageError)],
                # As they come from the store, so that all is added in one order, and equal to the last bit.
                [replace(each, grid=each.grid.contiguous()) for each in extract(stacked(good))] if good else [],
            )
            if store is not None and len(batch) == len(part):
                store.save(part, extracted)
            yield extracted, True


def judge_each(
    images: Iterable[ImageLike],
    options: Preprocessing,
    score: Callable[[Sequence[Input]], S],
    judge: Callable[[Sequence[Input], S], Iterator[Prediction]],
    on_error: OnError,
) -> Iterator[Prediction | ImageError]:
    """Yield what is found in images, in order, a batch at a time.

    Parameters
    ----------
    images, options
        The images, and how they are prepared.
    score
        Called with each batch, in another thread: it finds out what is in the next, while the caller works on one.
    judge
        Called with a batch and what `score` returned; makes the predictions.
    on_error
        Whether an unreadable image stops it, or its error is yielded in its place.
    """
    for batch, good, scores in _one_ahead(_scored(images, options, score, on_error)):
        judged = iter(()) if scores is None else judge(good, scores)
        for item in batch:
            yield item if isinstance(item, ImageError) else next(judged)


def _scored(
    images: Iterable[ImageLike], options: Preprocessing, score: Callable[[Sequence[Input]], S], on_error: OnError
) -> Iterator[tuple[list[Input | ImageError], list[Input], S | None]]:
    for batch in read_batches(images, options, on_error):
        good = [item for item in batch if isinstance(item, Input)]
        yield batch, good, score(good) if good else None


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield what an iterator has, which makes the next meanwhile, in a thread."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="patchcore-score") as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield cast(T, item)
