"""A streaming scorer, and scorers that break its contract in a single way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import patchcore_plugin as pp

from .sound import Scorer, breaks


class Streaming(Scorer):
    """Meets the contract, without saving memory."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.collected: list[Tensor] = []

    def fit(self, bank: pp.MemoryBank) -> None:
        self.collected = [bank.vectors]
        self.finish()

    def update(self, patches: pp.Patches) -> None:
        self.collected.append(patches.grid.flatten(0, 2))

    def finish(self) -> None:
        vectors = torch.cat(self.collected)
        super().fit(pp.MemoryBank(vectors, torch.zeros(len(vectors), 3, dtype=torch.int64)))

    def state(self) -> Any:
        return {"vectors": self.vectors, "scale": self.scale}

    def restore(self, bank: pp.MemoryBank, state: Mapping[str, Tensor]) -> None:
        self.vectors, self.scale = state["vectors"], state["scale"]

    def scores(self, differences: Tensor) -> pp.Scores:
        return replace(super().scores(differences), nearest=None)


@breaks(
    "scorer",
    "streaming-equals-fit",
    "update alone",
)
class UpdatesOnly(Scorer):
    def update(self, patches: pp.Patches) -> None: ...


@breaks(
    "scorer",
    "streaming-equals-fit",
    "other scores",
)
class LearnsFromTheLast(Streaming):
    def update(self, patches: pp.Patches) -> None:
        self.collected = [patches.grid.flatten(0, 2)]


@breaks(
    "scorer",
    "streaming-equals-fit",
    "int64 [4, 4, 5] on cpu",
)
class NamesRows(Streaming):
    def scores(self, differences: Tensor) -> pp.Scores:
        return Scorer.scores(self, differences)


@breaks(
    "scorer",
    "only-finish-changes-scores",
    "other scores",
)
class FinishesEarly(Streaming):
    def update(self, patches: pp.Patches) -> None:
        super().update(patches)
        self.finish()


@breaks(
    "scorer",
    "only-finish-changes-scores",
    "other scores",
)
class StartsAgain(Streaming):
    def finish(self) -> None:
        super().finish()
        self.collected = []


@breaks(
    "scorer",
    "streamed-state-is-complete",
    "different ones",
)
class RestoresTheScale(Streaming):
    def restore(self, bank: pp.MemoryBank, state: Mapping[str, Tensor]) -> None:
        self.vectors, self.scale = state["vectors"], torch.tensor(1.0)
