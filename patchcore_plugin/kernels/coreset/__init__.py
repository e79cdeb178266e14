"""Greedy coreset selection (minimax facility location, PatchCore section 3.2), exact and fast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels.compiled import serves
from patchcore_plugin.kernels.gpu import serves as gpu_serves

from . import compiled
from .lazy import LazyGreedy


def greedy_coreset(
    points: Tensor,
    count: int,
    start: int = 0,
    *,
    radius: float | None = None,
    within: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Select rows greedily, each time the one farthest from those selected.

    The selection is that of `reference.greedy` in every case: float64 direct differences of the given
    values decide, ties go to the lowest index, copies of a selected row come last in order of index.

    Parameters
    ----------
    points
        [N, D], floating point, finite.
    count
        How many rows to select, 1 to N.
    start
        The first row.
    radius
        Select fewer if the covering radius comes down to this before; in the units of `points`.
    within
        float64 [N], how far each row is from what was selected elsewhere before; distances to the nearest of those are
        never larger. None if nothing was.
    progress
        Called now and then with the number of rows selected and `count`.

    Returns
    -------
    index
        int64 [m] with m <= `count`, in selection order, on the device of `points`.
    radii
        float64 [m], on the CPU: the covering radius (the largest distance from any row to its nearest
        selected row) after each pick.

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
    points, known = points.detach(), None if within is None else within.square()
    if gpu_serves(points):
        from .gpu import greedy  # needs triton

        return greedy(points, count, start, radius=radius, known=known, progress=progress)
    if serves(points):
        found = compiled.greedy(points, count, start, radius=radius, known=known, progress=progress)
        if found is not None:
            return found
    return LazyGreedy(points, count, start, radius=radius, known=known, progress=progress).run()
