"""Photos to whoever works on them, a batch at a time: good ones in the order of a fit, others in their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from .calibration import fit_order
from .errors import ImageError
from .features import Input, OnError, Photo, read_batches, stacked
from .learning import Progress
from .prediction import Prediction
from .recipe import Preprocessing


class Seen(NamedTuple):
    """A training photo: where it is, if it is a file, and its height and width."""

    path: str | None
    shape: tuple[int, int]


class Read(NamedTuple):
    """The photos of a fit: those that were not held out, those that were, and what was wrong with others."""

    early: list[Seen]
    late: list[Seen]
    skipped: list[ImageError]

    def source(self, judged: int, judging: str) -> str:
        """Say in words of which photos the scores for a threshold are."""
        photos = len(self.early) + len(self.late)
        return f"scores of {judged if judged == photos else f'{judged} of {photos}'} good photos, {judging}"


def read_good(
    photos: Sequence[Photo],
    options: Preprocessing,
    seed: int,
    *,
    add: Callable[[Tensor], object],
    hold_out: Callable[[], object],
    on_error: OnError,
    progress: Progress | None = None,
    announce: Callable[[float], object] | None = None,
) -> Read:
    """Read the photos of a fit, those that are held out last.

    Parameters
    ----------
    photos
        Good photos.
    options
        How they are prepared.
    seed
        Chooses which are held out.
    add
        Called with each batch of network inputs, [B, 3, h, w].
    hold_out
        Called when the batches to come are held out.
    on_error
        Whether an unreadable photo stops it, or is left out.
    progress
        Called with "reading photos", and how many of how many are done.
    announce
        Called once, after the first batch, with the seconds that it took.

    Raises
    ------
    ImageError
        For an unreadable photo, if `on_error` is "stop".
    """
    early, late = fit_order(len(photos), seed)
    skipped: list[ImageError] = []
    done = 0

    def show(numbers: Sequence[int]) -> list[Seen]:
        nonlocal announce, done
        seen: list[Seen] = []
        start = time.perf_counter()
        for batch in read_batches([photos[number] for number in numbers], options, on_error):
            good = [item for item in batch if isinstance(item, Input)]
            skipped.extend(item for item in batch if isinstance(item, ImageError))
            if good:
                add(stacked(good))
                seen += [Seen(item.path, item.shape.photo) for item in good]
                if announce is not None:
                    announce(time.perf_counter() - start)
                    announce = None
            done += len(batch)
            if progress is not None:
                progress("reading photos", done, len(photos))
        return seen

    known = show(early.tolist())
    hold_out()
    return Read(known, show(late.tolist()), skipped)


def judge_each(
    photos: Iterable[Photo],
    options: Preprocessing,
    judge: Callable[[Sequence[Input]], Iterator[Prediction]],
    on_error: OnError,
) -> Iterator[Prediction | ImageError]:
    """Yield what `judge` finds in photos, in order; if skipping, the error of an unreadable one in its place."""
    for batch in read_batches(photos, options, on_error):
        good = [item for item in batch if isinstance(item, Input)]
        judged = judge(good) if good else iter(())
        for item in batch:
            yield item if isinstance(item, ImageError) else next(judged)
