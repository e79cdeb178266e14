"""Samplers `random` and `all`, the baselines of the paper for its coreset."""

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
    """Fraction of the patches to keep."""
    count: Annotated[int, Ge(1)] | None = None
    """Number of patches to keep, instead of `ratio`; all if there are fewer."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Random seed of the selection."""


@dataclass(frozen=True, kw_only=True)
class AllConfig:
    """`all` has no options."""


class RandomRows:
    """Selection of patches uniformly at random, without repetition.

    With a bank and new patches (``reduction``), the rows of the bank get the share of the patches that they represent,
    rounded up or down at random. All patches ever seen are then equally likely to be kept, if this sampler selected the
    bank.

    Parameters
    ----------
    config
        The options.
    """

    reduction: Reduction | None = None

    def __init__(self, config: RandomConfig) -> None:
        self._config = config

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return the selected rows of `vectors` [N, D], int64 [M]; TensorError if there are none."""
        import torch

        _check("random", vectors)
        options = self._config
        task = self.reduction or Reduction(rows=0, seen=len(vectors))
        count = min(options.count or math.ceil(options.ratio * task.seen), task.limit or len(vectors), len(vectors))
        if not task.rows:
            generator = torch.Generator().manual_seed(options.seed)
            return torch.randperm(len(vectors), generator=generator)[:count].to(vectors.device)
        new = len(vectors) - task.rows
        # Another seed for each reduction: otherwise the same positions would be selected every time.
        generator = torch.Generator().manual_seed((options.seed + task.seen) % 2**63)
        share = count * (task.seen - new) / task.seen
        old = min(max(int(share + float(torch.rand((), generator=generator))), count - new), task.rows)
        from_bank = torch.randperm(task.rows, generator=generator)[:old]
        from_new = torch.randperm(new, generator=generator)[: count - old] + task.rows
        return torch.cat([from_bank, from_new]).to(vectors.device)


def create_random(config: RandomConfig) -> Sampler:
    """Return the sampler `random`."""
    return RandomRows(config)


class AllRows:
    """Selection of every patch, in order."""

    keeps_all = True

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return all rows of `vectors` [N, D], int64 [N]; TensorError if there are none."""
        import torch

        _check("all", vectors)
        return torch.arange(len(vectors), device=vectors.device)


def create_all(config: AllConfig) -> Sampler:
    """Return the sampler `all`."""
    return AllRows()


def _check(name: str, vectors: Tensor) -> None:
    if vectors.ndim != 2 or len(vectors) == 0:
        raise TensorError(f"sampler {name!r}: expected vectors [N, D], N at least 1, got {list(vectors.shape)}")


@hookimpl
def patchcore_samplers() -> list[SamplerSpec]:
    """Provide `random` and `all`."""
    return [
        SamplerSpec(
            name="random",
            config=RandomConfig,
            create=create_random,
            summary="patches selected at random",
            keeps_all=False,
            reduces=True,
        ),
        SamplerSpec(
            name="all", config=AllConfig, create=create_all, summary="every patch", keeps_all=True, reduces=False
        ),
    ]
