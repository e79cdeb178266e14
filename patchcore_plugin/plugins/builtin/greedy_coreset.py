"""Sampler `greedy-coreset`: the paper's minimax facility location, selected greedily and exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le, Lt

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels.backend import describe
from patchcore_plugin.plugins.hookspecs import hookimpl
from patchcore_plugin.plugins.protocols import Reduction, Sampler
from patchcore_plugin.plugins.specs import SamplerSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GreedyCoresetConfig:
    """Options of `greedy-coreset`."""

    ratio: Annotated[float, Gt(0), Le(1)] = 0.1
    """Fraction of the patches that stay; the paper's are 0.25, 0.1 and 0.01."""
    count: Annotated[int, Ge(1)] | None = None
    """Number of patches that stay, in place of `ratio`; all of them where there are fewer."""
    radius: Annotated[float, Ge(0)] | None = None
    """Stop earlier, once every patch is within this distance of one that stays."""
    projection_dim: Annotated[int, Ge(1)] | None = None
    """None measures distances in full; a number, after a random projection to as many dimensions (authors: 128)."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Decides the first patch and the projection."""


class GreedyCoreset:
    """Farthest-first selection (arXiv 2106.08265, section 3.2 and algorithm 1).

    After a call, ``radii_`` is the covering radius after each pick, float64 [M]; None after a call with a
    projection, which changes distances.

    Of a bank and new patches (``reduction``), all rows of the bank stay, as long as the options allow for more, and the
    selection goes on from them: so patches that are gone stay as near to the bank as they were. The radii of the rows
    that stay, but for the last, are infinite then. Otherwise it selects among all.
    """

    radii_: Tensor | None = None
    reduction: Reduction | None = None
    progress: Callable[[int, int], None] | None = None
    """Called now and then with the number of patches selected, and how many are wanted at most."""

    def __init__(self, config: GreedyCoresetConfig) -> None:
        self._config = config

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return the rows of `vectors` [N, D] that stay, int64 [M], in selection order."""
        import torch

        from patchcore_plugin.kernels.coreset import greedy_coreset

        options = self._config
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise TensorError(
                f"sampler 'greedy-coreset': expected vectors [N, D], N and D at least 1, got {list(vectors.shape)}"
            )
        told = self.reduction or Reduction(rows=0, seen=len(vectors))
        count = min(options.count or math.ceil(options.ratio * told.seen), told.limit or len(vectors), len(vectors))
        generator = torch.Generator().manual_seed(options.seed)
        start = int(torch.randint(len(vectors), (1,), generator=generator))
        points = vectors
        if options.projection_dim is not None:
            shape = vectors.shape[1], options.projection_dim
            projection = torch.randn(shape, generator=generator) / math.sqrt(options.projection_dim)
            points = vectors.float() @ projection.to(vectors.device)
        if 0 < told.rows < count:
            index, radii = self._go_on(points, told.rows, count)
        else:
            index, radii = greedy_coreset(points, count, start, radius=options.radius, progress=self.progress)
        self.radii_ = radii if options.projection_dim is None else None
        return index

    def _go_on(self, points: Tensor, rows: int, count: int) -> tuple[Tensor, Tensor]:
        """Return indices and radii of the first `rows` points and of those that are selected after them."""
        import torch

        from patchcore_plugin.kernels.coreset import greedy_coreset
        from patchcore_plugin.kernels.nearest import NearestRows

        kept = torch.arange(rows, device=points.device)
        radii = torch.full((rows,), torch.inf, dtype=torch.float64)
        new, radii[-1] = points[rows:], 0.0
        if not len(new):
            return kept, radii
        within = NearestRows(points[:rows])(new)[0][:, 0]
        radii[-1] = float(within.max())
        stop = self._config.radius
        if stop is not None and float(radii[-1]) <= stop:
            return kept, radii
        first = int(within.argmax())
        index, after = greedy_coreset(new, count - rows, first, radius=stop, within=within, progress=self.progress)
        return torch.cat([kept, index + rows]), torch.cat([radii, after])


def create(config: GreedyCoresetConfig) -> Sampler:
    """Return the sampler."""
    return GreedyCoreset(config)


@hookimpl
def patchcore_samplers() -> list[SamplerSpec]:
    """Provide `greedy-coreset`."""
    return [
        SamplerSpec(
            name="greedy-coreset",
            config=GreedyCoresetConfig,
            create=create,
            summary="greedy minimax coreset, exact (the paper's)",
            kernels=describe,
        )
    ]
