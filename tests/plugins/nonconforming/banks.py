"""Samplers and scorers that break their contract in a single way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import patchcore_plugin as pp

from .sound import Sampler, Scorer, breaks

# Samplers


@breaks(
    "sampler",
    "indices-have-the-right-form",
    "expected indices int64 [M] on cpu, found int32 [45] on cpu; return a tensor such as torch.arange(...) gives",
)
class Narrow(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        return super().__call__(vectors).int()


@breaks(
    "sampler",
    "indices-have-the-right-form",
    "expected indices from 0 to 89, found 90 to 90; return places in the input",
)
class Beyond(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        return super().__call__(vectors) * 0 + len(vectors)


@breaks(
    "sampler",
    "no-row-stays-twice",
    "expected every row at most once, found 1 of 46 indices repeated; leave out rows that are chosen already",
)
class Repeats(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        index = super().__call__(vectors)
        return torch.cat([index, index[:1]])


@breaks(
    "sampler",
    "no-row-stays-twice",
    "expected every row at most once, found 9 of 10 indices repeated; leave out rows that are chosen already",
)
class RepeatsEqualRows(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        index = super().__call__(vectors)
        return index if len(vectors.unique(dim=0)) > 1 else torch.zeros_like(index)


@breaks(
    "sampler",
    "few-rows-work",
    "expected at least one of 1 rows, found none; keep one where the options would keep none",
)
class RoundsDown(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        return super().__call__(vectors)[: len(vectors) // 2]


@breaks(
    "sampler",
    "wrong-vectors-are-refused",
    "expected a PatchcoreError for vectors of shape [0, 8], found an answer; "
    "raise a TensorError that says what was expected and what came",
)
class SamplesAnything(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        return torch.arange(0, len(vectors), 2)


@breaks(
    "sampler",
    "radii-are-true",
    "expected radii_ to be float64 [45], one per index, found float32 [45] on cpu; leave None where they are not known",
)
class SingleRadii(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        index = super().__call__(vectors)
        self.radii_ = self.radii(torch.cdist(vectors.double(), vectors[index].double()))
        return index

    def radii(self, distances: Tensor) -> Tensor:
        return distances.cummin(dim=1).values.amax(dim=0).float()


@breaks(
    "sampler",
    "radii-are-true",
    "expected radii_[0] to be <number>, the largest distance to the picks so far, found <number>; "
    "measure distances, not their squares, in the space of the input; or leave None",
)
class SquaredRadii(SingleRadii):
    def radii(self, distances: Tensor) -> Tensor:
        return distances.square().cummin(dim=1).values.amax(dim=0)


class Reduces(Sampler):
    """Half of the patches that were seen."""

    reduction: pp.Reduction | None = None

    def __call__(self, vectors: Tensor) -> Any:
        index = super().__call__(vectors)
        return index if self.reduction is None else self.reduced(index, self.reduction)

    def reduced(self, index: Tensor, told: pp.Reduction) -> Tensor:
        return index[: told.limit]


REDUCTIONS = "reductions-keep-to-their-limit"


@breaks("sampler", REDUCTIONS, "expected at most 5 rows where limit is 5, found 45; keep the first few")
class IgnoresTheLimit(Reduces):
    def reduced(self, index: Tensor, told: pp.Reduction) -> Tensor:
        return index


@breaks(
    "sampler",
    REDUCTIONS,
    "expected at least 45 rows where ten times as many patches were seen, found 4; "
    "let a fraction be one of reduction.seen",
)
class KeepsFewerOfMore(Reduces):
    def reduced(self, index: Tensor, told: pp.Reduction) -> Tensor:
        return index[: 45 * 90 // told.seen]


@breaks("sampler", REDUCTIONS, "expected every row at most once, found repeated indices; choose among the others")
class RepeatsRowsOfTheBank(Reduces):
    def reduced(self, index: Tensor, told: pp.Reduction) -> Tensor:
        return torch.cat([torch.arange(told.rows), index])[: told.limit]


@breaks(
    "sampler",
    REDUCTIONS,
    "expected the same answer as before once reduction is None again, found another one; keep nothing between calls",
)
class RemembersTheReduction(Reduces):
    told: pp.Reduction | None = None

    def __call__(self, vectors: Tensor) -> Any:
        self.told = self.reduction or self.told
        return super().__call__(vectors)[: 45 if self.told is None else self.told.limit]


@breaks(
    "sampler",
    "progress-is-told-in-order",
    "expected progress(done, total) with done rising to at most the total, found [(2, 1)]; count what is selected",
)
class BeyondTheTotal(Sampler):
    progress: Callable[[int, int], None] | None = None

    def __call__(self, vectors: Tensor) -> Any:
        if self.progress is not None:
            self.progress(2, 1)
        return super().__call__(vectors)


# Scorers


@breaks(
    "scorer",
    "scores-have-the-right-form",
    "expected Scores, found float32 [4] on cpu; return Scores(image=..., map=...)",
)
class NoScores(Scorer):
    def __call__(self, patches: pp.Patches) -> Any:
        return super().__call__(patches).image


@breaks(
    "scorer",
    "scores-have-the-right-form",
    "expected scores in float32, found float64 [4] on cpu; convert them by .float()",
)
class DoubleScores(Scorer):
    def scores(self, differences: Tensor) -> pp.Scores:
        return super().scores(differences.double())


@breaks(
    "scorer",
    "scores-have-the-right-form",
    "expected Scores.nearest to be int64 [4, 4, 5], rows of the bank from 0 to 119, found int64 [4, 4, 5] on cpu, "
    "from 120 to 120; return row numbers of the bank, or None",
)
class RowsBeyond(Scorer):
    def scores(self, differences: Tensor) -> pp.Scores:
        scores = super().scores(differences)
        return replace(scores, nearest=torch.full(differences.shape[:3], differences.shape[-2]))


@breaks(
    "scorer",
    "strange-images-score-higher",
    "expected a larger image score far from the bank than in it, found <number> far away and -0 in the bank; "
    "return a distance: larger is more anomalous",
)
class Likelihood(Scorer):
    def scores(self, differences: Tensor) -> pp.Scores:
        scores = super().scores(differences)
        return replace(scores, image=-scores.image)


@breaks(
    "scorer",
    "small-banks-work",
    "expected no exception, found IndexError: no third neighbour; see <place>",
)
class ThreeNeighbours(Scorer):
    def scores(self, differences: Tensor) -> pp.Scores:
        if differences.shape[-2] < 3:
            raise IndexError("no third neighbour")
        return super().scores(differences)


@breaks(
    "scorer",
    "state-restores-it",
    "expected equal scores from a scorer that is restored, found different ones; "
    "put all that fit computed into state(), and take it back in restore()",
)
class RestoresHalf(Scorer):
    def restore(self, bank: pp.MemoryBank, state: Mapping[str, Tensor]) -> None:
        self.vectors, self.scale = bank.vectors, torch.tensor(1.0)


@breaks(
    "scorer",
    "state-restores-it",
    "expected state() to hold tensors by name, found 'scale': float; return a dict of tensors, {} where the bank is "
    "all there is",
)
class StateOfNumbers(Scorer):
    def state(self) -> Any:
        return {"scale": float(self.scale)}


@breaks(
    "scorer",
    "state-restores-it",
    "expected state()['scale'] to be finite, found NaN or infinity; find where they come from",
)
class StateOfNothing(Scorer):
    def state(self) -> Any:
        return {"scale": self.scale * torch.nan}


@breaks(
    "scorer",
    "fitting-again-forgets",
    "expected the scores of a new scorer after a second fit, found other scores; set everything anew in fit",
)
class Remembers(Scorer):
    def fit(self, bank: pp.MemoryBank) -> None:
        old, self.scale = self.vectors, torch.tensor(1.0)
        # With as many rows as the new bank has, as a fixed-size buffer would.
        self.vectors = bank.vectors if old is None else torch.cat([old, bank.vectors])[: len(bank.vectors)]


@breaks(
    "scorer",
    "scoring-comes-after-fit",
    "expected a PatchcoreError for scoring before fit or restore, found TypeError: object of type 'NoneType' has no "
    "len(); raise a TensorError that says what was expected and what came",
)
class NotFitted(Scorer):
    def __call__(self, patches: pp.Patches) -> Any:
        _ = len(self.vectors)  # type: ignore[arg-type]
        return super().__call__(patches)


@breaks(
    "scorer",
    "wrong-patches-are-refused",
    "expected a PatchcoreError for patches of 1 values beside a bank of 8, found an answer; "
    "raise a TensorError that says what was expected and what came",
)
class Broadcasts(Scorer):
    def __call__(self, patches: pp.Patches) -> Any:
        if patches.grid.shape[-1] == 1:
            patches = replace(patches, grid=patches.grid.repeat(1, 1, 1, 8))
        return super().__call__(patches)
