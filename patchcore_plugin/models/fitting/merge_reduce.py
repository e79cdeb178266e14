"""Fit by merge-and-reduce: a memory bank and new patches are merged, and reduced to a memory bank of all of them.

The same procedure fits on more patches than fit into memory, and adds images to a fitted model.

Most patches are gone after a reduction, so the covering radius over all of them can only be bounded. Each old
patch was within r of a row of the old bank, where r is its covering radius or a bound of it. Let m be the largest
distance from a row of the old bank to the new bank: by the triangle inequality each old patch is within r + m of the
new bank. Let d be the largest distance from a new patch to the new bank, which is known exactly. Then all patches are
within max(r + m, d). `greedy-coreset` keeps all rows of the old bank where it can; m is 0 then, and the bound does not
grow with the number of reductions.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from patchcore_plugin.data.types import Progress
from patchcore_plugin.errors import ImageError, OptionError
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.models.pipeline import Pipeline
from patchcore_plugin.models.scores import ImageScores, score_patches
from patchcore_plugin.models.state import FittedState
from patchcore_plugin.plugins.protocols import MemoryBank, Reduction, Sampler, Scorer

from . import memory
from .batches import FeatureBatch
from .buffer import PatchBuffer
from .hold_out import held_out_indices
from .result import FitResult
from .strategies import NO_IMAGE


class MergeReduceFit:
    """Reduce the memory bank and the new patches whenever the buffer is full, and at the end.

    Parameters
    ----------
    pipeline
        The components.
    capacity
        Maximum number of new images.
    plan
        How a memory budget is used; None to reduce once, at the end.
    state, images
        A fitted member to start from, and the number of images it was fitted on. All new images are scored by it
        before they are added. Without it a tenth of the images is held out, and scored by a bank of the other images.
    progress
        Called with a stage of the work, the units done, and their total.
    """

    scoring = "held out and scored by a memory bank of the images read earlier"

    def __init__(
        self,
        pipeline: Pipeline,
        capacity: int,
        *,
        plan: memory.BudgetPlan | None = None,
        state: FittedState | None = None,
        images: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._capacity = capacity
        self._plan = plan
        self._state = state
        self._first = images
        self._progress = progress
        self._needed = 0.0 if plan is None else float(plan.budget)
        self._radius = 0.0 if state is None else state.covering_radius or 0.0
        self._buffer: PatchBuffer | None = None
        self._scorer: Scorer | None = None if state is None else state.scorer
        self._scores: dict[int, ImageScores] = {}
        self._indices: list[int] = []
        self._reductions = 0

    def held_out(self, seed: int) -> Collection[int]:
        """Return the indices of a tenth of the images, or of all to update a fitted member."""
        return range(self._capacity) if self._state is not None else held_out_indices(self._capacity, seed).tolist()

    def scored_images(self) -> int:
        """Return the number of images that are held out."""
        return len(self.held_out(0))

    def add(self, batch: FeatureBatch) -> None:
        """Score the images of a batch if they are held out, reduce if the buffer is full, and keep the patches."""
        patches = batch.patches
        assert patches is not None
        indices = [image.number for image in batch.images]
        if batch.held_out and self._scorer is None and self._buffer is not None:
            self._reduce(self._buffer)
            self._fit_scorer(self._buffer)
        if batch.held_out and self._scorer is not None:
            self._scores |= zip(indices, score_patches(self._scorer, patches), strict=True)
        if self._buffer is None:
            bank = None if self._state is None else self._state.bank
            rows = 0 if bank is None else len(bank.vectors)
            if self._plan is None:
                self._needed = memory.require_memory(self._capacity, patches, bank_rows=rows)
                rows += self._capacity * memory.patches_per_image(patches)
            else:
                rows = self._plan.rows
            self._buffer = PatchBuffer(rows, patches, bank=bank, images=self._first)
        if self._buffer.free_images < len(patches.grid):
            is_scoring = self._state is None and self._scorer is not None
            if is_scoring:
                self._scorer = None  # frees what it derived from the old bank
            self._reduce(self._buffer)
            if is_scoring:
                self._fit_scorer(self._buffer)
        self._buffer.add(patches)
        self._indices += indices

    def finish(self) -> FitResult:
        """Reduce a last time, and fit the scorer on the memory bank.

        Raises
        ------
        ImageError
            If no image was read.
        """
        if self._buffer is None:
            raise ImageError(NO_IMAGE)
        self._scorer = None
        self._reduce(self._buffer)
        bank, self._buffer = self._in_given_order(self._buffer.bank()), None
        exact = self._radius == 0 or (self._state is None and self._reductions == 1)
        scorer = self._pipeline.new_scorer()
        scorer.fit(bank)
        state = FittedState(
            scorer=scorer, bank=bank, radius_curve=[(len(bank.vectors), self._radius)], radius_is_exact=exact
        )
        return FitResult(state, self._scores)

    def _in_given_order(self, bank: MemoryBank) -> MemoryBank:
        """Return a copy of the bank in which new images are numbered in the order given, not in reading order."""
        order = torch.tensor(self._indices).argsort().to(bank.origin.device)
        numbers = torch.arange(self._first + len(order), device=order.device)
        numbers[self._first + order] = numbers[self._first :].clone()
        origin = bank.origin.clone()
        origin[:, 0] = numbers[origin[:, 0]]
        descriptors = bank.descriptors
        if descriptors is not None:
            descriptors = torch.cat([descriptors[: self._first], descriptors[self._first :][order]])
        # A copy, because a view would keep the whole buffer alive.
        return replace(bank, vectors=bank.vectors.clone(), origin=origin, descriptors=descriptors)

    def _fit_scorer(self, buffer: PatchBuffer) -> None:
        self._scorer = self._pipeline.new_scorer()
        self._scorer.fit(buffer.bank())

    def _reduce(self, buffer: PatchBuffer) -> None:
        """Let a new sampler choose the rows that stay, unless there are no new patches."""
        if buffer.rows == buffer.bank_rows:
            return
        self._reductions += 1
        stage = "selecting patches" if self._plan is None else f"selecting patches, {self._reductions}"
        progress = self._progress
        sampler = self._pipeline.new_sampler(None if progress is None else lambda done, of: progress(stage, done, of))
        limit = None
        if self._plan is not None:
            # A constant fraction of the patches seen, so that old rows need not be dropped for new ones.
            limit = max(1, self._plan.bank * buffer.seen // self._plan.patches)
        index, self._radius = choose_rows(self._pipeline, sampler, buffer, self._radius, limit)
        buffer.reduce(index)

    def describe(self, seconds: float) -> str:
        """Return a line about memory and time."""
        assert self._buffer is not None
        buffer, plan = self._buffer, self._plan
        reading = f"reading the rest takes about {seconds:.0f} s"
        if plan is None:
            return f"{self._capacity} more images: at most {memory.size_text(self._needed)} of memory; {reading}"
        vectors = buffer.vectors()
        for _ in range(2):  # the first call loads libraries
            start = time.perf_counter()
            self._pipeline.select(self._pipeline.new_sampler(), vectors)
        # Larger selections take longer per patch; those that start from a bank take less.
        selecting = (time.perf_counter() - start) * plan.patches / len(vectors)
        return (
            f"{self._capacity} images have {plan.patches:,} patches, at most {plan.rows:,} of which are in memory "
            f"({memory.size_text(plan.budget)} in all); the memory bank has at most {plan.bank:,} rows; {reading}, "
            f"selecting patches about {selecting:.0f} s"
        )


def choose_rows(
    pipeline: Pipeline, sampler: Sampler, buffer: PatchBuffer, radius: float, limit: int | None = None
) -> tuple[Tensor, float]:
    """Let a sampler choose from a memory bank and the patches that follow it.

    Parameters
    ----------
    pipeline
        The components; the sampler must be reducible, see `require_reducible`.
    sampler
        A new one.
    buffer
        Rows of the bank, if any, and new patches.
    radius
        Covering radius of the bank, or a bound of it.
    limit
        Maximum number of rows to keep.

    Returns
    -------
    tuple of Tensor and float
        The rows that stay, int64 [M], and a bound of the covering radius over all patches.

    Raises
    ------
    TensorError
        If the sampler returns no valid rows, or more than `limit`.
    """
    vectors, rows = buffer.vectors(), buffer.bank_rows
    if pipeline.keeps_all:
        return pipeline.select(sampler, vectors), 0.0
    index = pipeline.select(sampler, vectors, Reduction(rows=rows, seen=buffer.seen, limit=limit))
    radii = getattr(sampler, "radii_", None)
    stays = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
    stays[index] = True
    dropped = (~stays[:rows]).nonzero().flatten()
    if radii is not None and not len(dropped):
        return index, max(radius, float(radii[-1]))
    search = NearestRows(vectors[index])
    moved = radius + float(search(vectors[dropped])[0].max()) if len(dropped) else radius
    if radii is not None:
        return index, max(moved, float(radii[-1]))
    new = vectors[rows:][~stays[rows:]]
    return index, max(moved, float(search(new)[0].max())) if len(new) else moved


def require_reducible(pipeline: Pipeline, purpose: str) -> None:
    """Refuse a sampler that cannot choose from a memory bank and new patches.

    Parameters
    ----------
    pipeline
        The components.
    purpose
        What is impossible without reduction, for the message, such as "the model cannot be updated".

    Raises
    ------
    OptionError
        If the sampler has no attribute ``reduction``.
    """
    if not pipeline.can_reduce:
        raise OptionError(
            f"sampler {pipeline.recipe.sampler.name!r} cannot choose from a memory bank and new patches (it has no "
            f"attribute 'reduction'), so {purpose}; fit on all images at once, or use --sampler greedy-coreset"
        )
