"""Samplers that break their contract in a single way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import patchcore_plugin as pp

from .sound import Sampler, breaks


@breaks(
    "sampler",
    "indices-have-the-right-form",
    "int32 [45] on cpu",
)
class Narrow(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        return super().__call__(vectors).int()


@breaks(
    "sampler",
    "indices-have-the-right-form",
    "90 to 90",
)
class Beyond(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        return super().__call__(vectors) * 0 + len(vectors)


@breaks(
    "sampler",
    "no-row-is-repeated",
    "1 of 46 indices repeated",
)
class Repeats(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        index = super().__call__(vectors)
        return torch.cat([index, index[:1]])


@breaks(
    "sampler",
    "no-row-is-repeated",
    "9 of 10 indices repeated",
)
class RepeatsEqualRows(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        index = super().__call__(vectors)
        return index if len(vectors.unique(dim=0)) > 1 else torch.zeros_like(index)


@breaks(
    "sampler",
    "few-rows-work",
    "none",
)
class RoundsDown(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        return super().__call__(vectors)[: len(vectors) // 2]


@breaks(
    "sampler",
    "wrong-vectors-are-refused",
    "a result",
)
class SamplesAnything(Sampler):
    def __call__(self, vectors: Tensor) -> Any:
        return torch.arange(0, len(vectors), 2)


@breaks(
    "sampler",
    "radii-are-correct",
    "float32 [45] on cpu",
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
    "radii-are-correct",
    "radii_[0] to be ",
)
class SquaredRadii(SingleRadii):
    def radii(self, distances: Tensor) -> Tensor:
        return distances.square().cummin(dim=1).values.amax(dim=0)


class Reduces(Sampler):
    """Half of the patches that were seen."""

    reduction: pp.Reduction | None = None

    def __call__(self, vectors: Tensor) -> Any:
        index = super().__call__(vectors)
        return index if self.reduction is None else self.reduce(index, self.reduction)

    def reduce(self, index: Tensor, task: pp.Reduction) -> Tensor:
        return index[: task.limit]


REDUCTIONS = "reductions-respect-limit"


@breaks("sampler", REDUCTIONS, "45")
class IgnoresTheLimit(Reduces):
    def reduce(self, index: Tensor, task: pp.Reduction) -> Tensor:
        return index


@breaks(
    "sampler",
    REDUCTIONS,
    "4",
)
class KeepsFewerOfMore(Reduces):
    def reduce(self, index: Tensor, task: pp.Reduction) -> Tensor:
        return index[: 45 * 90 // task.seen]


@breaks("sampler", REDUCTIONS, "repeated indices")
class RepeatsRowsOfTheBank(Reduces):
    def reduce(self, index: Tensor, task: pp.Reduction) -> Tensor:
        return torch.cat([torch.arange(task.rows), index])[: task.limit]


@breaks(
    "sampler",
    REDUCTIONS,
    "another one",
)
class RemembersTheReduction(Reduces):
    last: pp.Reduction | None = None

    def __call__(self, vectors: Tensor) -> Any:
        self.last = self.reduction or self.last
        return super().__call__(vectors)[: 45 if self.last is None else self.last.limit]


@breaks(
    "sampler",
    "progress-rises",
    "[(2, 1)]",
)
class BeyondTheTotal(Sampler):
    progress: Callable[[int, int], None] | None = None

    def __call__(self, vectors: Tensor) -> Any:
        if self.progress is not None:
            self.progress(2, 1)
        return super().__call__(vectors)


@breaks("sampler", "capabilities-are-true", "reduces=True", reduces=True)
class CannotReduce(Sampler): ...


@breaks("sampler", "keeping-all-is-true", "45")
class KeepsHalf(Sampler):
    keeps_all = True
