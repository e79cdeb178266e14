"""Two ways to fit: keep all patches for the sampler, or fit the scorer batch by batch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcore_plugin.data.types import Progress
from patchcore_plugin.errors import ImageError
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.models.images import BATCH
from patchcore_plugin.models.pipeline import Pipeline
from patchcore_plugin.models.scores import ImageScores, score_patches
from patchcore_plugin.models.state import FittedState
from patchcore_plugin.plugins.protocols import MemoryBank, Patches, Sampler, Scorer, StreamingScorer

from . import memory
from .batches import FeatureBatch
from .buffer import PatchBuffer
from .hold_out import folds, held_out_indices
from .result import FitResult

CURVE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Fractions of the patches at which the covering radius is recorded."""
NO_IMAGE = "no readable image to fit on; pass at least one image of a good part"


class InMemoryFit:
    """Keep the patches of all images, and let the sampler choose from them.

    Training images are scored by cross-fitting: each by a memory bank of the images in the other folds.

    Parameters
    ----------
    pipeline
        The components.
    capacity
        Maximum number of images.
    seed
        Chooses the folds.
    progress
        Called with a stage of the work, the units done, and their total.
    """

    def __init__(self, pipeline: Pipeline, capacity: int, seed: int, progress: Progress | None = None) -> None:
        self._pipeline = pipeline
        self._capacity = capacity
        self._seed = seed
        self._progress = progress
        self._indices: list[int] = []
        self._buffer: PatchBuffer | None = None
        self._needed = 0.0

    @property
    def scoring(self) -> str:
        """How training images are scored, for messages."""
        return f"cross-fitted in {len(folds(len(self._indices), self._seed))} folds"

    def held_out(self, seed: int) -> Collection[int]:
        """Return no index: all images are scored, fold by fold."""
        return ()

    def scored_images(self) -> int:
        """Return all images if there are at least two, else 0."""
        return self._capacity if self._capacity > 1 else 0

    def add(self, batch: FeatureBatch) -> None:
        """Keep the patches of a batch.

        Raises
        ------
        PatchcoreError
            For the first batch, if there is not enough memory for all images.
        """
        assert batch.patches is not None
        if self._buffer is None:
            self._needed = memory.require_memory(self._capacity, batch.patches)
            rows = self._capacity * memory.patches_per_image(batch.patches)
            self._buffer = PatchBuffer(rows, batch.patches)
        self._buffer.add(batch.patches)
        self._indices += [image.number for image in batch.images]

    def finish(self) -> FitResult:
        """Score the images fold by fold, then fit on all of them.

        Raises
        ------
        ImageError
            If no image was read.
        """
        if self._buffer is None:
            raise ImageError(NO_IMAGE)
        buffer = self._buffer
        scores = self._cross_fit(buffer)
        scorer, bank, sampler = self._fit("selecting patches", buffer, len(self._indices))
        curve = _radius_curve(sampler, buffer.vectors(), bank)
        return FitResult(FittedState(scorer=scorer, bank=bank, radius_curve=curve), scores)

    def _cross_fit(self, buffer: PatchBuffer) -> dict[int, ImageScores]:
        """Return the scores of all images, each by a memory bank of the images that are not in its fold.

        The bank of all images without an image's own rows would not work: a coreset keeps its rows far apart, so
        the image would seem far from normal.
        """
        scores: dict[int, ImageScores] = {}
        parts = folds(len(self._indices), self._seed)
        for number, fold in enumerate(parts, start=1):
            with _moved_to_end(fold, buffer) as places:
                count = len(self._indices) - len(fold)
                scorer, _, _ = self._fit(
                    f"selecting patches for the threshold, {number} of {len(parts)}", buffer, count
                )
                # Scored before the images move back: a bank of all rows is a view of the buffer.
                for low in range(0, len(fold), BATCH):
                    batch = [self._indices[place] for place in places[low : low + BATCH]]
                    patches = buffer.patches(count + low, len(batch))
                    scores |= zip(batch, score_patches(scorer, patches), strict=True)
        return scores

    def _fit(self, stage: str, buffer: PatchBuffer, images: int) -> tuple[Scorer, MemoryBank, Sampler]:
        """Return a scorer fitted on the first images of the buffer, its memory bank, and the sampler."""
        progress = self._progress
        sampler = self._pipeline.new_sampler(None if progress is None else lambda done, of: progress(stage, done, of))
        bank = buffer.bank(self._pipeline.select(sampler, buffer.vectors(images)), images)
        scorer = self._pipeline.new_scorer()
        scorer.fit(bank)
        return scorer, bank, sampler

    def describe(self, seconds: float) -> str:
        """Return a line about memory and time."""
        assert self._buffer is not None
        patches = self._capacity * self._buffer.patches_per_image
        images = "1 image has" if self._capacity == 1 else f"{self._capacity} images have"
        return (
            f"{images} {patches:,} patches of {self._buffer.vectors().shape[1]:,} values: at most "
            f"{self._needed / 1e9:.2g} GB of memory; reading the rest takes about {seconds:.0f} s"
        )


class StreamingFit:
    """Fit the scorer batch by batch, in memory that does not grow with the number of images.

    A tenth of the images is held out, and scored before it is added. With `bank`, all images are.

    Parameters
    ----------
    scorer
        Not fitted, or fitted on earlier images.
    capacity
        Maximum number of images.
    bank
        The memory bank, without rows, of a scorer that was fitted before; None for a new one.
    """

    scoring = "held out and scored by a model of the other images"

    def __init__(self, scorer: StreamingScorer, capacity: int, bank: MemoryBank | None = None) -> None:
        self._scorer = scorer
        self._capacity = capacity
        self._bank = bank
        self._seen = 0 if bank is None else bank.seen or 0
        self._like: Patches | None = None
        self._is_scoring = bank is not None
        self._scores: dict[int, ImageScores] = {}

    def held_out(self, seed: int) -> Collection[int]:
        """Return the indices of a tenth of the images, or of all to update a fitted scorer."""
        return range(self._capacity) if self._bank is not None else held_out_indices(self._capacity, seed).tolist()

    def scored_images(self) -> int:
        """Return the number of images that are held out."""
        return len(self.held_out(0))

    def add(self, batch: FeatureBatch) -> None:
        """Score the images of a batch if they are held out, and fit on them."""
        patches = batch.patches
        assert patches is not None
        if batch.held_out and (self._is_scoring or self._like is not None):
            if not self._is_scoring:
                self._scorer.finish()
                self._is_scoring = True
            indices = [image.number for image in batch.images]
            self._scores |= zip(indices, score_patches(self._scorer, patches), strict=True)
        self._scorer.update(patches)
        self._seen += patches.grid[..., 0].numel()
        self._like = Patches(patches.grid.new_empty(1, 1, 1, patches.grid.shape[-1]), levels=patches.levels)

    def finish(self) -> FitResult:
        """Return the scorer, fitted on all images, and a memory bank without rows.

        Raises
        ------
        ImageError
            If no image was read.
        """
        if self._like is None:
            raise ImageError(NO_IMAGE)
        self._scorer.finish()
        vectors = self._like.grid.new_empty(0, self._like.grid.shape[-1])
        origin = torch.empty(0, 3, dtype=torch.int64, device=vectors.device)
        bank = MemoryBank(vectors, origin, self._seen, levels=self._like.levels)
        return FitResult(FittedState(scorer=self._scorer, bank=bank), self._scores)

    def describe(self, seconds: float) -> str:
        """Return a line about memory and time."""
        return f"{self._capacity} images, patches are not stored; reading the rest takes about {seconds:.0f} s"


@contextmanager
def _moved_to_end(fold: NDArray[np.int64], buffer: PatchBuffer) -> Iterator[list[int]]:
    """Move the images of a fold to the end of the buffer for a while; yield their places, in the new order.

    The other images are the start of the buffer then, and need not be copied, which would double the memory.
    """
    places = np.arange(buffer.images)
    last = places[buffer.images - len(fold) :].copy()
    some, others = np.setdiff1d(fold, last), np.setdiff1d(last, fold)
    places[some], places[others] = others, some
    buffer.swap(some.tolist(), others.tolist())
    try:
        yield places[last].tolist()
    finally:
        buffer.swap(some.tolist(), others.tolist())


def _radius_curve(sampler: Sampler, vectors: Tensor, bank: MemoryBank) -> list[tuple[int, float]]:
    """Return (rows, covering radius) of the memory bank and, if the sampler reports it, of smaller ones."""
    if getattr(sampler, "keeps_all", False):
        return [(len(bank.vectors), 0.0)]
    radii = getattr(sampler, "radii_", None)
    if radii is None:
        distance, _ = NearestRows(bank.vectors)(vectors)
        return [(len(bank.vectors), float(distance.max()))]
    rows = [math.ceil(fraction * len(vectors)) for fraction in CURVE]
    rows = sorted({count for count in rows if count < len(radii)} | {len(radii)})
    return [(count, float(radii[count - 1])) for count in rows]
