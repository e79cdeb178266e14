"""Samplers `random` and `all`: what the paper compares its coreset with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le, Lt

from patchcore_plugin.errors import TensorError
from patchcore_plugin.plugins.hookspecs import hookimpl
from patchcore_plugin.plugins.protocols import Reduction, Sampler
from patchcore_plugin.plugins.specs import SamplerSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RandomConfig:
    """Options of `random`."""

    ratio: Annotated[float, Gt(0), Le(1)] = 0.1
    """Fraction of the patches that stay."""
    count: Annotated[int, Ge(1)] | None = None
    """Number of patches that stay, in place of `ratio`; all of them where there are fewer."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Decides which."""


@dataclass(frozen=True, kw_only=True)
class AllConfig:
    """`all` has no options."""


class RandomRows:
    """Keeps patches chosen uniformly at random, without repetition.

    Of a bank and new patches (``reduction``), the bank's rows get the share of all patches that they stand for, rounded
    up or down at random. So each patch ever seen is as likely to stay as any other, if this sampler made the bank.
    """

    reduction: Reduction | None = None

    def __init__(self, config: RandomConfig) -> None:
        self._config = config

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return the rows of `vectors` [N, D] that stay, int64 [M]."""
        import torch

        _check("random", vectors)
        options = self._config
        told = self.reduction or Reduction(rows=0, seen=len(vectors))
        count = min(options.count or math.ceil(options.ratio * told.seen), told.limit or len(vectors), len(vectors))
        if not told.rows:
            generator = torch.Generator().manual_seed(options.seed)
            return torch.randperm(len(vectors), generator=generator)[:count].to(vectors.device)
        new = len(vectors) - told.rows
        # Other numbers for each reduction: with the same, the same places would win every time.
        generator = torch.Generator().manual_seed((options.seed + told.seen) % 2**63)
        share = count * (told.seen - new) / told.seen
        old = min(max(int(share + float(torch.rand((), generator=generator))), count - new), told.rows)
        kept = torch.randperm(told.rows, generator=generator)[:old]
        added = torch.randperm(new, generator=generator)[: count - old] + told.rows
        return torch.cat([kept, added]).to(vectors.device)


def create_random(config: RandomConfig) -> Sampler:
    """Return a sampler that keeps patches chosen uniformly at random, without repetition."""
    return RandomRows(config)


class AllRows:
    """Keeps every patch, in order."""

    keeps_all = True

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return all rows of `vectors` [N, D], int64 [N]."""
        import torch

        _check("all", vectors)
        return torch.arange(len(vectors), device=vectors.device)


def create_all(config: AllConfig) -> Sampler:
    """Return a sampler that keeps every patch, in order."""
    return AllRows()


def _check(name: str, vectors: Tensor) -> None:
    if vectors.ndim != 2 or len(vectors) == 0:
        raise TensorError(f"sampler {name!r}: expected vectors [N, D], N at least 1, got {list(vectors.shape)}")


@hookimpl
def patchcore_samplers() -> list[SamplerSpec]:
    """Provide `random` and `all`."""
    return [
        SamplerSpec(name="random", config=RandomConfig, create=create_random, summary="patches chosen at random"),
        SamplerSpec(name="all", config=AllConfig, create=create_all, summary="every patch"),
    ]
