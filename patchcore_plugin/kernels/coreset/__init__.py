"""Greedy coreset selection (minimax facility location, PatchCore section 3.2), exact and fast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels import _native_calls, _triton
from patchcore_plugin.kernels.backend import Backend, usable_backends

from . import native
from .lazy import LazyGreedy
from .task import Task

__all__ = ["greedy_coreset"]

Picks = tuple[Tensor, Tensor]
"""The picks in order, int64 [m], and the covering radius after each, float64 [m] on the CPU."""


def _prepare_triton(points: Tensor) -> Callable[[Task], Picks]:
    from .gpu import greedy  # imports triton

    return lambda task: greedy(points, task)


BACKENDS: tuple[Backend[[Task], Picks | None], ...] = (
    Backend("Triton", usable=lambda points, task: _triton.usable(points), prepare=_prepare_triton),
    Backend(
        "compiled",
        usable=lambda points, task: _native_calls.usable(points),
        prepare=lambda points: lambda task: native.greedy(points, task),
    ),
    Backend(
        "torch, float32",
        usable=lambda points, task: True,
        prepare=lambda points: lambda task: LazyGreedy(points, task).run(),
    ),
)
"""In order of preference. A backend that gives up returns None; the last one never does."""


def greedy_coreset(
    points: Tensor,
    count: int,
    start: int = 0,
    *,
    radius: float | None = None,
    within: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Select rows greedily: each pick is the row farthest from all earlier picks.

    The selection is that of `reference.greedy` whichever backend computes it: float64 direct differences of the given
    values decide, ties go to the lowest index, and copies of selected rows come last, in order of index.

    Parameters
    ----------
    points
        [N, D], floating point, finite.
    count
        How many rows to select, 1 to N.
    start
        The first row.
    radius
        Stop earlier, as soon as the covering radius is at most this; in the units of `points`.
    within
        float64 [N], the distance of each row to the nearest row of an earlier selection elsewhere; None if there is
        none.
    progress
        Called from time to time with the number of rows selected and `count`.

    Returns
    -------
    index
        int64 [m] with m <= `count`, in selection order, on the device of `points`.
    radii
        float64 [m], on the CPU: the covering radius after each pick, which is the largest distance from any row to its
        nearest pick.

    Raises
    ------
    TensorError
        For a wrong shape, `count` or `start`, and for values that are not finite.

    Examples
    --------
    >>> import torch
    >>> index, radii = greedy_coreset(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), 3)
    >>> index.tolist(), radii.tolist()
    ([0, 3, 2], [9.0, 4.0, 1.0])
    """
    if points.ndim != 2 or not points.is_floating_point() or 0 in points.shape:
        raise TensorError(
            f"greedy_coreset: expected floating-point points [N, D], N and D at least 1, "
            f"got {points.dtype} {list(points.shape)}"
        )
    if not 1 <= count <= len(points):
        raise TensorError(f"greedy_coreset: count must be between 1 and {len(points)}, got {count}")
    if not 0 <= start < len(points):
        raise TensorError(f"greedy_coreset: start must be between 0 and {len(points) - 1}, got {start}")
    if within is not None and (within.dtype, within.shape) != (torch.float64, points.shape[:1]):
        raise TensorError(
            f"greedy_coreset: expected within float64 [{len(points)}], got {within.dtype} {list(within.shape)}"
        )
    points = points.detach()
    task = Task(count, start, radius, None if within is None else within.square(), progress)
    results = (backend.prepare(points)(task) for backend in usable_backends(BACKENDS, points, task))
    return next(picks for picks in results if picks is not None)
