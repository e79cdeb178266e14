"""How a fit learns from patches: they are all kept for a sampler to choose from, or learned from as they come."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .composition import Composition
from .errors import ImageError
from .features import PatchBuffer
from .kernels.nearest import NearestRows
from .roles import MemoryBank, Patches, Sampler, Scorer, Scores, StreamingScorer

Progress = Callable[[str, int, int], None]

CURVE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Fractions of the patches at which the covering radius is kept."""


class Judged(NamedTuple):
    """What a held-out photo got: its score, and patch scores [h, w] where there are any."""

    score: float
    map: NDArray[np.float32] | None


class Learned(NamedTuple):
    """What a fit leaves."""

    scorer: Scorer
    bank: MemoryBank
    radius_curve: list[tuple[int, float]]
    """Rows of a bank and its covering radius, the one that was made last."""


class Learner(Protocol):
    """A fit in progress: `add` photos, `hold_out`, `add` the held-out ones, `judged`, and `learned` from all."""

    @property
    def needed(self) -> float:
        """Bytes that it takes at most, and that grow with the photos; known after the first batch."""
        ...

    def add(self, patches: Patches) -> None:
        """Take the patches of a batch of photos."""
        ...

    def hold_out(self) -> None:
        """Say that the photos to come are held out: `judged` by what was learned from those before them."""
        ...

    def judged(self) -> list[Judged]:
        """Return what the held-out photos got; nothing if there were none, or none before them."""
        ...

    def learned(self) -> Learned:
        """Return what was learned from all photos."""
        ...

    def describe(self, seconds: float) -> str:
        """Say in a line what all photos will take, if those that are here took so many seconds."""
        ...


def learner(parts: Composition, capacity: int, progress: Progress | None = None) -> Learner:
    """Return what learns from at most so many photos."""
    scorer = parts.fresh_scorer()
    if isinstance(scorer, StreamingScorer) and getattr(parts.sampler(), "keeps_all", False):
        return Streamed(scorer, capacity)
    return Kept(parts, capacity, progress)


class Kept:
    """Keeps the patches of all photos, and lets the sampler choose from them.

    Parameters
    ----------
    parts
        The components.
    capacity
        How many photos there will be at most.
    progress
        Called with a stage of the work, and how many of how many of its units are done.
    """

    def __init__(self, parts: Composition, capacity: int, progress: Progress | None = None) -> None:
        self.features = PatchBuffer(capacity)
        self._parts = parts
        self._progress = progress
        self._known = 0

    @property
    def needed(self) -> float:
        """Bytes that the patches, and the work on them, take at most."""
        return self.features.needed

    def add(self, patches: Patches) -> None:
        """Keep the patches of a batch of photos."""
        self.features.add(patches)

    def hold_out(self) -> None:
        """Hold out the photos to come."""
        self._known = len(self.features)

    def judged(self) -> list[Judged]:
        """Judge the held-out photos by a bank of the others."""
        if not 0 < self._known < len(self.features):
            return []
        scorer, _, _ = self._learn("selecting patches for the threshold", self._known)
        found: list[Judged] = []
        for number in range(self._known, len(self.features)):
            found += _judged(_score(scorer, self.features.patches(number)))
        return found

    def learned(self) -> Learned:
        """Learn from all photos."""
        scorer, bank, sampler = self._learn("selecting patches", len(self.features))
        return Learned(scorer, bank, _radius_curve(sampler, self.features.vectors(), bank))

    def _learn(self, stage: str, photos: int) -> tuple[Scorer, MemoryBank, Sampler]:
        progress = self._progress
        sampler = self._parts.sampler(None if progress is None else lambda done, total: progress(stage, done, total))
        bank = self.features.bank(self._parts.select(sampler, self.features.vectors(photos)), photos)
        scorer = self._parts.fresh_scorer()
        scorer.fit(bank)
        return scorer, bank, sampler

    def describe(self, seconds: float) -> str:
        """Say what all photos will take."""
        return self.features.describe(seconds)


class Streamed:
    """Learns from patches as they come, so that memory does not grow with the number of photos.

    Parameters
    ----------
    scorer
        One that has learned nothing yet.
    capacity
        How many photos there will be at most.
    """

    needed = 0.0

    def __init__(self, scorer: StreamingScorer, capacity: int) -> None:
        self._scorer = scorer
        self._capacity = capacity
        self._photos = self._patches = 0
        self._like: Tensor | None = None
        self._levels: tuple[int, ...] | None = None
        self._judging = False
        self._judged: list[Judged] = []

    def add(self, patches: Patches) -> None:
        """Judge the patches of a batch if they are held out, and learn from them."""
        if self._judging:
            self._judged += _judged(_score(self._scorer, patches))
        self._scorer.update(patches)
        self._photos += len(patches.grid)
        self._patches += patches.grid[..., 0].numel()
        self._like, self._levels = patches.grid.new_empty(0, patches.grid.shape[-1]), patches.levels

    def hold_out(self) -> None:
        """Judge the photos to come by what was learned so far."""
        if self._photos:
            self._scorer.finish()
            self._judging = True

    def judged(self) -> list[Judged]:
        """Return what the held-out photos got."""
        return self._judged

    def learned(self) -> Learned:
        """Return the scorer, which now knows all photos, and a bank without rows."""
        if self._like is None:
            raise ImageError("no photo to fit on; give at least one readable photo of a good part")
        self._scorer.finish()
        origin = torch.empty(0, 3, dtype=torch.int64, device=self._like.device)
        return Learned(self._scorer, MemoryBank(self._like, origin, self._patches, levels=self._levels), [])

    def describe(self, seconds: float) -> str:
        """Say what all photos will take."""
        rest = seconds / self._photos * (self._capacity - self._photos)
        return f"{self._capacity} photos, whose patches need not be kept; reading the rest takes about {rest:.0f} s"


@torch.inference_mode()
def _score(scorer: Scorer, patches: Patches) -> Scores:
    return scorer(patches)


def _judged(scores: Scores) -> list[Judged]:
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
