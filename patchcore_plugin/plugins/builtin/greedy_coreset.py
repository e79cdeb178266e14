"""Sampler `greedy-coreset`: exact greedy selection for the minimax facility location of the paper."""

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
    """Fraction of the patches to keep; the paper uses 0.25, 0.1 and 0.01."""
    count: Annotated[int, Ge(1)] | None = None
    """Number of patches to keep, instead of `ratio`; all if there are fewer."""
    radius: Annotated[float, Ge(0)] | None = None
    """Stop early when every patch is within this distance of a selected one."""
    projection_dim: Annotated[int, Ge(1)] | None = None
    """Number of dimensions of a random projection for distances (authors' code: 128); None: no projection."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Random seed of the first patch and of the projection."""


class GreedyCoreset:
    """Farthest-first selection (arXiv 2106.08265, section 3.2 and algorithm 1).

    After a call, ``radii_`` is the covering radius after each pick, float64 [M], or None with a projection, which
    changes distances.

    With a bank and new patches (``reduction``), it keeps all rows of the bank if the options allow more rows than that,
    and continues the selection from them, so the covering radius of earlier patches does not grow. All radii of these
    rows except the last are infinite. If the options allow fewer rows, it selects from all.

    Parameters
    ----------
    config
        The options.
    """

    radii_: Tensor | None = None
    reduction: Reduction | None = None
    progress: Callable[[int, int], None] | None = None
    """Called from time to time with the number of selected patches and the largest number to select."""

    def __init__(self, config: GreedyCoresetConfig) -> None:
        self._config = config

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return the selected rows of `vectors` [N, D], int64 [M], in selection order.

        Raises
        ------
        TensorError
            If `vectors` is empty or has another shape.
        """
        import torch

        from patchcore_plugin.kernels.coreset import greedy_coreset

        options = self._config
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise TensorError(
                f"sampler 'greedy-coreset': expected vectors [N, D], N and D at least 1, got {list(vectors.shape)}"
            )
        task = self.reduction or Reduction(rows=0, seen=len(vectors))
        count = min(options.count or math.ceil(options.ratio * task.seen), task.limit or len(vectors), len(vectors))
        generator = torch.Generator().manual_seed(options.seed)
        start = int(torch.randint(len(vectors), (1,), generator=generator))
        points = vectors
        if options.projection_dim is not None:
            shape = vectors.shape[1], options.projection_dim
            projection = torch.randn(shape, generator=generator) / math.sqrt(options.projection_dim)
            points = vectors.float() @ projection.to(vectors.device)
        if 0 < task.rows < count:
            index, radii = self._extend(points, task.rows, count)
        else:
            index, radii = greedy_coreset(points, count, start, radius=options.radius, progress=self.progress)
        self.radii_ = radii if options.projection_dim is None else None
        return index

    def _extend(self, points: Tensor, rows: int, count: int) -> tuple[Tensor, Tensor]:
        """Return indices and radii of the first `rows` points and of those selected after them."""
        import torch

        from patchcore_plugin.kernels.coreset import greedy_coreset
        from patchcore_plugin.kernels.nearest import NearestRows

        bank = torch.arange(rows, device=points.device)
        radii = torch.full((rows,), torch.inf, dtype=torch.float64)
        new, radii[-1] = points[rows:], 0.0
        if not len(new):
            return bank, radii
        within = NearestRows(points[:rows])(new)[0][:, 0]
        radii[-1] = float(within.max())
        stop = self._config.radius
        if stop is not None and float(radii[-1]) <= stop:
            return bank, radii
        first = int(within.argmax())
        index, after = greedy_coreset(new, count - rows, first, radius=stop, within=within, progress=self.progress)
        return torch.cat([bank, index + rows]), torch.cat([radii, after])


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
            summary="greedy minimax coreset, exact (as in the paper)",
            keeps_all=False,
            reduces=True,
            kernels=describe,
        )
    ]
