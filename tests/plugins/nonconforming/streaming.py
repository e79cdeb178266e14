"""A scorer that learns from patches as they come, and ones that break that contract in a single way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import patchcore_plugin as pp

from .sound import Scorer, breaks


class Streaming(Scorer):
    """Keeps to the contract; not that it saves memory."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.learned: list[Tensor] = []

    def fit(self, bank: pp.MemoryBank) -> None:
        self.learned = [bank.vectors]
        self.finish()

    def update(self, patches: pp.Patches) -> None:
        self.learned.append(patches.grid.flatten(0, 2))

    def finish(self) -> None:
        vectors = torch.cat(self.learned)
        super().fit(pp.MemoryBank(vectors, torch.zeros(len(vectors), 3, dtype=torch.int64)))

    def state(self) -> Any:
        return {"vectors": self.vectors, "scale": self.scale}

    def restore(self, bank: pp.MemoryBank, state: Mapping[str, Tensor]) -> None:
        self.vectors, self.scale = state["vectors"], state["scale"]

    def scores(self, differences: Tensor) -> pp.Scores:
        return replace(super().scores(differences), nearest=None)


@breaks(
    "scorer",
    "streaming-learns-what-fit-does",
    "expected both update and finish, or neither, found update alone; add the other one",
)
class UpdatesOnly(Scorer):
    def update(self, patches: pp.Patches) -> None: ...


@breaks(
    "scorer",
    "streaming-learns-what-fit-does",
    "expected the scores of fit from a scorer that learned from two batches, found other scores; "
    "learn from every batch, whatever its size",
)
class LearnsFromTheLast(Streaming):
    def update(self, patches: pp.Patches) -> None:
        self.learned = [patches.grid.flatten(0, 2)]


@breaks(
    "scorer",
    "streaming-learns-what-fit-does",
    "expected Scores.nearest to be None where the bank has no rows, found int64 [4, 4, 5] on cpu; return None there",
)
class NamesRows(Streaming):
    def scores(self, differences: Tensor) -> pp.Scores:
        return Scorer.scores(self, differences)


@breaks(
    "scorer",
    "only-finish-changes-scores",
    "expected the same scores after update as before it, found other scores; "
    "keep what is learned apart from what scores, until finish",
)
class FinishesEarly(Streaming):
    def update(self, patches: pp.Patches) -> None:
        super().update(patches)
        self.finish()


@breaks(
    "scorer",
    "only-finish-changes-scores",
    "expected the scores of all images after a second finish, found other scores; "
    "let update go on from what it knew before finish",
)
class StartsAgain(Streaming):
    def finish(self) -> None:
        super().finish()
        self.learned = []


@breaks(
    "scorer",
    "what-was-streamed-is-restored",
    "expected equal scores from a scorer that is restored without a bank, found different ones; "
    "put all that was learned into state(): there is no bank beside it",
)
class RestoresTheScale(Streaming):
    def restore(self, bank: pp.MemoryBank, state: Mapping[str, Tensor]) -> None:
        self.vectors, self.scale = state["vectors"], torch.tensor(1.0)
