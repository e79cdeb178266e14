"""Scorers that break their contract in a single way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import patchcore_plugin as pp

from .sound import Scorer, breaks


@breaks(
    "scorer",
    "scores-have-the-right-form",
    "float32 [4] on cpu",
)
class NoScores(Scorer):
    def __call__(self, patches: pp.Patches) -> Any:
        return super().__call__(patches).image


@breaks(
    "scorer",
    "scores-have-the-right-form",
    "float64 [4] on cpu",
)
class DoubleScores(Scorer):
    def scores(self, differences: Tensor) -> pp.Scores:
        return super().scores(differences.double())


@breaks(
    "scorer",
    "scores-have-the-right-form",
    "int64 [4, 4, 5] on cpu, from 120 to 120",
)
class RowsBeyond(Scorer):
    def scores(self, differences: Tensor) -> pp.Scores:
        scores = super().scores(differences)
        return replace(scores, nearest=torch.full(differences.shape[:3], differences.shape[-2]))


@breaks(
    "scorer",
    "anomalous-images-score-higher",
    "a larger image score far from the bank than in it",
)
class Likelihood(Scorer):
    def scores(self, differences: Tensor) -> pp.Scores:
        scores = super().scores(differences)
        return replace(scores, image=-scores.image)


@breaks(
    "scorer",
    "small-banks-work",
    "IndexError: no third neighbour",
)
class ThreeNeighbours(Scorer):
    def scores(self, differences: Tensor) -> pp.Scores:
        if differences.shape[-2] < 3:
            raise IndexError("no third neighbour")
        return super().scores(differences)


@breaks(
    "scorer",
    "state-is-complete",
    "different ones",
)
class RestoresHalf(Scorer):
    def restore(self, bank: pp.MemoryBank, state: Mapping[str, Tensor]) -> None:
        self.vectors, self.scale = bank.vectors, torch.tensor(1.0)


@breaks(
    "scorer",
    "state-is-complete",
    "'scale': float",
)
class StateOfNumbers(Scorer):
    def state(self) -> Any:
        return {"scale": float(self.scale)}


@breaks(
    "scorer",
    "state-is-complete",
    "NaN or infinity",
)
class StateOfNothing(Scorer):
    def state(self) -> Any:
        return {"scale": self.scale * torch.nan}


@breaks(
    "scorer",
    "second-fit-replaces-first",
    "other scores",
)
class Remembers(Scorer):
    def fit(self, bank: pp.MemoryBank) -> None:
        old, self.scale = self.vectors, torch.tensor(1.0)
        # With as many rows as the new bank has, as a fixed-size buffer would.
        self.vectors = bank.vectors if old is None else torch.cat([old, bank.vectors])[: len(bank.vectors)]


@breaks(
    "scorer",
    "scoring-needs-fit",
    "TypeError: object of type 'NoneType' has no len()",
)
class NotFitted(Scorer):
    def __call__(self, patches: pp.Patches) -> Any:
        _ = len(self.vectors)  # type: ignore[arg-type]
        return super().__call__(patches)


@breaks(
    "scorer",
    "wrong-patches-are-refused",
    "a result",
)
class Broadcasts(Scorer):
    def __call__(self, patches: pp.Patches) -> Any:
        if patches.grid.shape[-1] == 1:
            patches = replace(patches, grid=patches.grid.repeat(1, 1, 1, 8))
        return super().__call__(patches)


@breaks("scorer", "capabilities-are-true", "streaming=True", streaming=True)
class CannotStream(Scorer): ...
