"""Fits that go by merge-and-reduce: of more images than memory holds, and of those that a model gets afterwards."""

from __future__ import annotations

import time
from dataclasses import replace

from patchcore_plugin.data.types import Progress
from patchcore_plugin.errors import ImageError, OptionError
from patchcore_plugin.models.calibration import held_out
from patchcore_plugin.models.pipeline import Composition
from patchcore_plugin.plugins.protocols import MemoryBank, Patches, Scorer, StreamingScorer

from . import budget as memory
from .budget import Share
from .inputs import BATCH
from .learners import Judged, Learned, Learner, Streamed, judged_by, learner
from .reducing import Union, require_reducible


class Merged:
    """Reduces the bank and the patches that came since, whenever there is no room for more.

    Parameters
    ----------
    parts
        The components.
    capacity
        How many images there will be at most.
    share
        What it may take; None for as much as it takes to reduce a single time, at the end.
    bank, images, radius
        The bank of a fitted model, how many images it is of, and its covering radius; `parts` have its scorer. All new
        images are judged by it, before they are learned from. None begins with nothing.
    progress
        As in `Kept`.
    """

    judging = "held out and judged by a bank of those before them"

    def __init__(
        self,
        parts: Composition,
        capacity: int,
        *,
        share: Share | None = None,
        bank: MemoryBank | None = None,
        images: int = 0,
        radius: float = 0.0,
        progress: Progress | None = None,
    ) -> None:
        self.needed = 0.0 if share is None else float(share.budget)
        """Bytes that it takes at most; without a share, known after the first batch."""
        self._parts = parts
        self._capacity = capacity
        self._share = share
        self._known = bank
        self._images, self._radius = images, radius
        self._progress = progress
        self._union: Union | None = None
        self._scorer: Scorer | None = None if bank is None else parts.scorer
        self._judging = bank is not None
        self._judged: list[Judged] = []
        self._reductions = 0

    def add(self, patches: Patches) -> None:
        """Judge the patches of a batch if they are held out, reduce if there is no room for them, and keep them."""
        if self._judging:
            assert self._scorer is not None
            self._judged += judged_by(self._scorer, patches)
        if self._union is None:
            self._union = self._begin(patches)
        if self._union.room < len(patches.grid):
            self._reduce(self._union)
        self._union.add(patches)

    def _begin(self, patches: Patches) -> Union:
        _, height, width, dims = patches.grid.shape
        known = self._known
        rows = 0 if known is None else len(known.vectors)
        if self._share is None:
            size = patches.grid.element_size()
            self.needed = memory.check(self._capacity, height * width, dims, patches.grid.device, size, rows=rows)
            rows += self._capacity * height * width
        else:
            rows = self._share.rows
        return Union(rows, patches, bank=known, images=self._images, radius=self._radius)

    def _reduce(self, union: Union) -> None:
        number = self._reductions + 1
        stage = "selecting patches" if self._share is None else f"selecting patches, {number}"
        progress = self._progress
        limit = None
        if self._share is not None:
            # A constant share of what was seen, so that rows never need to leave to make room for later ones.
            limit = max(1, self._share.bank * union.seen // self._share.patches)
        if self._judging and self._known is None:
            self._scorer = None  # what it made of the old bank makes room
        union.reduce(self._parts, None if progress is None else lambda done, all_: progress(stage, done, all_), limit)
        self._reductions = number
        if self._judging and self._known is None:
            self._scorer = self._parts.fresh_scorer()
            self._scorer.fit(union.bank())

    def hold_out(self) -> None:
        """Judge the images to come by a bank of those before each."""
        if self._union is not None and not self._judging:
            self._judging = True
            self._reduce(self._union)

    def judges(self, images: int) -> int:
        """Return how many are held out; all of those that a model gets afterwards."""
        return images if self._known is not None else len(held_out(images, 0))

    def judged(self) -> list[Judged]:
        """Return what the held-out images got."""
        return self._judged

    def learned(self) -> Learned:
        """Learn from all images."""
        union = self._union
        if union is None:
            raise ImageError("no image to learn from; give at least one readable image of a good part")
        self._judging, self._scorer = False, None
        self._reduce(union)
        bank, self._union = union.bank(), None
        # Not a view, which would keep the room for patches alive.
        bank = replace(bank, vectors=bank.vectors.clone(), origin=bank.origin.clone())
        radius = union.radius
        exact = radius == 0 or (self._known is None and self._reductions == 1)
        del union
        scorer = self._parts.fresh_scorer()
        scorer.fit(bank)
        return Learned(scorer, bank, [(len(bank.vectors), radius)], exact)

    def describe(self, seconds: float) -> str:
        """Say what all images will take."""
        assert self._union is not None
        union, share = self._union, self._share
        here = union.images - self._images
        reading = f"reading the rest takes about {seconds / here * (self._capacity - here):.0f} s"
        if share is None:
            return f"{self._capacity} more images: at most {memory.text(self.needed)} of memory; {reading}"
        vectors = union.bank().vectors
        for _ in range(2):  # the first time, libraries are loaded
            start = time.perf_counter()
            self._parts.select(self._parts.sampler(), vectors)
        # Larger selections take longer for each patch, and those that go on from a bank less.
        selecting = (time.perf_counter() - start) * share.patches / len(vectors)
        return (
            f"{self._capacity} images make {share.patches:,} patches, at most {share.rows:,} of which are in memory "
            f"({memory.text(share.budget)} with all that is made of them); the bank has at most {share.bank:,} rows; "
            f"{reading}, selecting patches about {selecting:.0f} s"
        )


def learner_within(
    parts: Composition, capacity: int, budget: int, first: Patches, progress: Progress | None = None
) -> Learner:
    """Return what learns from at most so many images, and takes at most so much memory for what grows with them.

    Parameters
    ----------
    parts
        The components.
    capacity
        How many images there will be at most.
    budget
        How many bytes.
    first
        Patches of an image, to know what they take.
    progress
        As in `Kept`.

    Raises
    ------
    PatchcoreError
        If it is too little, or there is not so much.
    OptionError
        If the sampler cannot choose from a bank and new patches.
    """
    plain = learner(parts, capacity, progress)
    if isinstance(plain, Streamed):
        return plain
    _, height, width, dims = first.grid.shape
    device, size = first.grid.device, first.grid.element_size()
    fixed = 0 if first.descriptors is None else capacity * first.descriptors.shape[1] * first.descriptors.element_size()
    share = memory.share(budget, capacity, height * width, dims, device, size, batch=BATCH, fixed=fixed)
    if share is None:
        return plain
    require_reducible(parts, "a fit within a memory budget cannot be made")
    if getattr(parts.sampler(), "keeps_all", False):
        raise OptionError(
            f"sampler {parts.recipe.sampler.name!r} keeps every patch, and they do not fit into the memory budget; "
            f"give {memory.text(share.all)}, or take --sampler greedy-coreset"
        )
    return Merged(parts, capacity, share=share, progress=progress)


def learner_of_more(
    parts: Composition, bank: MemoryBank, images: int, radius: float | None, capacity: int, progress: Progress | None
) -> Learner:
    """Return what lets a fitted model learn from more images; the model's own scorer does not change.

    Parameters
    ----------
    parts
        The components, with the fitted scorer.
    bank, images, radius
        The model's bank, how many images it is of, and its covering radius.
    capacity
        How many more images there will be at most.
    progress
        As in `Kept`.

    Raises
    ------
    OptionError
        If the sampler cannot choose from a bank and new patches.
    """
    scorer = parts.fresh_scorer()
    if isinstance(scorer, StreamingScorer) and getattr(parts.sampler(), "keeps_all", False) and not len(bank.vectors):
        scorer.restore(bank, parts.scorer.state())
        return Streamed(scorer, capacity, known=bank)
    require_reducible(parts, "the model cannot get more images")
    return Merged(parts, capacity, bank=bank, images=images, radius=radius or 0.0, progress=progress)
