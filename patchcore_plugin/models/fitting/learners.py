"""How a fit learns from patches: they are all kept for a sampler to choose from, or learned from as they come."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcore_plugin.data.types import Progress
from patchcore_plugin.errors import ImageError
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.models.calibration import folds, held_out
from patchcore_plugin.models.pipeline import Composition
from patchcore_plugin.plugins.protocols import MemoryBank, Patches, Sampler, Scorer, StreamingScorer

from .inputs import BATCH, PatchBuffer

CURVE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Fractions of the patches at which the covering radius is kept."""


class Judged(NamedTuple):
    """What a good image got that was not learned from: its score, and patch scores [h, w] where there are any."""

    score: float
    map: NDArray[np.float32] | None


class Learned(NamedTuple):
    """What a fit leaves."""

    scorer: Scorer
    bank: MemoryBank
    radius_curve: list[tuple[int, float]]
    """Rows of a bank and its covering radius, the one that was made last."""
    exact: bool = True
    """Whether that radius is the true one of all patches, not a bound of it."""


class Learner(Protocol):
    """A fit in progress: `add` images, `hold_out`, `add` the held-out ones, `judged`, and `learned` from all."""

    @property
    def judging(self) -> str:
        """How images come to be judged by a model that does not know them, in words."""
        ...

    @property
    def needed(self) -> float:
        """Bytes that it takes at most, and that grow with the images; known after the first batch."""
        ...

    def add(self, patches: Patches) -> None:
        """Take the patches of a batch of images."""
        ...

    def hold_out(self) -> None:
        """Say that the images to come are held out: `judged` by what was learned from those before them."""
        ...

    def judges(self, images: int) -> int:
        """Return how many of so many images `judged` will be about."""
        ...

    def judged(self) -> list[Judged]:
        """Return what the last images got, held out or all, each from a model that does not know it; may be none."""
        ...

    def learned(self) -> Learned:
        """Return what was learned from all images."""
        ...

    def describe(self, seconds: float) -> str:
        """Say in a line what all images will take, if those that are here took so many seconds."""
        ...


def learner(parts: Composition, capacity: int, progress: Progress | None = None) -> Learner:
    """Return what learns from at most so many images."""
    scorer = parts.fresh_scorer()
    if isinstance(scorer, StreamingScorer) and getattr(parts.sampler(), "keeps_all", False):
        return Streamed(scorer, capacity)
    return Kept(parts, capacity, progress)


class Kept:
    """Keeps the patches of all images, and lets the sampler choose from them.

    Parameters
    ----------
    parts
        The components.
    capacity
        How many images there will be at most.
    progress
        Called with a stage of the work, and how many of how many of its units are done.
    """

    def __init__(self, parts: Composition, capacity: int, progress: Progress | None = None) -> None:
        self.features = PatchBuffer(capacity)
        self._parts = parts
        self._progress = progress

    @property
    def judging(self) -> str:
        """How images come to be judged by a bank that does not know them."""
        return f"each judged by a bank of the others ({len(folds(len(self.features), self._parts.seed))} folds)"

    @property
    def needed(self) -> float:
        """Bytes that the patches, and the work on them, take at most."""
        return self.features.needed

    def add(self, patches: Patches) -> None:
        """Keep the patches of a batch of images."""
        self.features.add(patches)

    def hold_out(self) -> None:
        """Nothing: all images are judged, fold by fold."""

    def judges(self, images: int) -> int:
        """Return that all of them are judged, if there are two."""
        return images if images > 1 else 0

    def judged(self) -> list[Judged]:
        """Judge all images, each by a bank of those that are not in its fold.

        A bank of all images, less the rows of the one that is judged, will not do: the rows of a coreset are far from
        each other, so whoever has one would seem far from normal.
        """
        features = self.features
        found: dict[int, Judged] = {}
        parts = folds(len(features), self._parts.seed)
        for number, fold in enumerate(parts, start=1):
            with at_the_end(fold, features) as images:
                known = len(features) - len(fold)
                scorer, _, _ = self._learn(f"selecting patches for the threshold, {number} of {len(parts)}", known)
                # They are judged while they are there: a bank of all rows is no copy of the buffer.
                for low in range(0, len(fold), BATCH):
                    batch = images[low : low + BATCH].tolist()
                    found |= zip(batch, judged_by(scorer, features.patches(known + low, len(batch))), strict=True)
        return [found[image] for image in range(len(found))]

    def learned(self) -> Learned:
        """Learn from all images."""
        scorer, bank, sampler = self._learn("selecting patches", len(self.features))
        return Learned(scorer, bank, _radius_curve(sampler, self.features.vectors(), bank))

    def _learn(self, stage: str, images: int) -> tuple[Scorer, MemoryBank, Sampler]:
        progress = self._progress
        sampler = self._parts.sampler(None if progress is None else lambda done, total: progress(stage, done, total))
        bank = self.features.bank(self._parts.select(sampler, self.features.vectors(images)), images)
        scorer = self._parts.fresh_scorer()
        scorer.fit(bank)
        return scorer, bank, sampler

    def describe(self, seconds: float) -> str:
        """Say what all images will take."""
        return self.features.describe(seconds)


class Streamed:
    """Learns from patches as they come, so that memory does not grow with the number of images.

    Parameters
    ----------
    scorer
        One that has learned nothing yet.
    capacity
        How many images there will be at most.
    known
        The bank, without rows, of a scorer that has learned from images already: all others are judged by it.
    """

    judging = "held out and judged by what was learned from the others"
    needed = 0.0

    def __init__(self, scorer: StreamingScorer, capacity: int, known: MemoryBank | None = None) -> None:
        self._scorer = scorer
        self._capacity = capacity
        self._known = known
        self._images = 0
        self._patches = 0 if known is None else known.seen or 0
        self._like: Tensor | None = None
        self._levels: tuple[int, ...] | None = None
        self._judging = known is not None
        self._judged: list[Judged] = []

    def add(self, patches: Patches) -> None:
        """Judge the patches of a batch if they are held out, and learn from them."""
        if self._judging:
            self._judged += judged_by(self._scorer, patches)
        self._scorer.update(patches)
        self._images += len(patches.grid)
        self._patches += patches.grid[..., 0].numel()
        self._like, self._levels = patches.grid.new_empty(0, patches.grid.shape[-1]), patches.levels

    def hold_out(self) -> None:
        """Judge the images to come by what was learned so far."""
        if self._images and self._known is None:
            self._scorer.finish()
            self._judging = True

    def judges(self, images: int) -> int:
        """Return how many are held out; all of those that come to others."""
        return len(held_out(images, 0)) if self._known is None else images

    def judged(self) -> list[Judged]:
        """Return what the held-out images got."""
        return self._judged

    def learned(self) -> Learned:
        """Return the scorer, which now knows all images, and a bank without rows."""
        if self._like is None:
            raise ImageError("no image to fit on; give at least one readable image of a good part")
        self._scorer.finish()
        origin = torch.empty(0, 3, dtype=torch.int64, device=self._like.device)
        return Learned(self._scorer, MemoryBank(self._like, origin, self._patches, levels=self._levels), [])

    def describe(self, seconds: float) -> str:
        """Say what all images will take."""
        rest = seconds / self._images * (self._capacity - self._images)
        return f"{self._capacity} images, whose patches need not be kept; reading the rest takes about {rest:.0f} s"


@contextmanager
def at_the_end(fold: NDArray[np.int64], features: PatchBuffer) -> Iterator[NDArray[np.int64]]:
    """Let the last images take the places of those in `fold`; yield which are the last ones then, in order.

    The others are the start of the buffer then, and need not be copied, which would double the memory.
    """
    now = np.arange(len(features))
    last = now[len(features) - len(fold) :].copy()
    places, movers = np.setdiff1d(fold, last), np.setdiff1d(last, fold)
    now[places], now[movers] = movers, places
    features.exchange(places.tolist(), movers.tolist())
    try:
        yield now[last]
    finally:
        features.exchange(places.tolist(), movers.tolist())


@torch.inference_mode()
def judged_by(scorer: Scorer, patches: Patches) -> list[Judged]:
    """Return what the images of a batch get from a scorer that does not know them."""
    scores = scorer(patches)
    maps = [None] * len(scores.image) if scores.map is None else list(scores.map.cpu().numpy())
    return [Judged(score, grid) for score, grid in zip(scores.image.tolist(), maps, strict=True)]


def _radius_curve(sampler: Sampler, vectors: Tensor, bank: MemoryBank) -> list[tuple[int, float]]:
    """Return (rows, covering radius) of the bank and, where the sampler knows, of smaller ones."""
    if getattr(sampler, "keeps_all", False):
        return [(len(bank.vectors), 0.0)]
    radii = getattr(sampler, "radii_", None)
    if radii is None:
        distance, _ = NearestRows(bank.vectors)(vectors)
        return [(len(bank.vectors), float(distance.max()))]
    rows = [math.ceil(fraction * len(vectors)) for fraction in CURVE]
    rows = sorted({count for count in rows if count < len(radii)} | {len(radii)})
    return [(count, float(radii[count - 1])) for count in rows]
