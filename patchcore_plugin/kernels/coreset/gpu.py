r"""Greedy k-center on a GPU: the selection of the reference, a few hundred picks per round.

On a GPU, arithmetic is cheap and the sequence of picks is the bottleneck. Unlike `lazy`, this keeps the squared
distance of every point to its nearest pick exact. A round is:

1. The first points by (distance descending, row ascending) are the players, up to `MAX_PLAYERS`. The first one left
   outside is the threshold.
2. Their mutual distances are computed in float64 and stored in one matrix, but only those that could change a result:
   where 8-bit codes (`quantisation`) cannot prove the distance to be above the value of the player.
3. `play_out`, one program, runs the greedy selection among the players while the first of them comes before the
   threshold. Values outside can only have fallen, so each of its picks is that of the reference.
4. All points are compared with the new picks like queries with a bank in `nearest.gpu`: two 8-bit passes on the
   tensor cores, then float64 differences of the remaining pairs.

Every decision uses the float64 differences of `squared_distances`, in its order, so ties and copies are resolved like
in the reference. A round synchronises once, to read the number of picks.

Cost for N points, m picks, D values and B players: 4 N m D operations on 8-bit integers in total; per round, one
sort of N values, a matrix of 8 B^2 bytes and 4 B^2 D such operations; per pick, one row of the matrix and one reduction
of B values in one program, about 2 microseconds, which dominates. With about 15 launches for hundreds of picks, CUDA
graphs would save nothing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import triton
from torch import Tensor

from patchcore_plugin.kernels.nearest.gpu import Search

from . import _gpu_triton
from .task import Task

MIN_PLAYERS = 512
MAX_PLAYERS = 4096


def greedy(points: Tensor, task: Task, players: int | None = None) -> tuple[Tensor, Tensor]:
    """Select points greedily on the device of the points; see `GreedyOnGpu`.

    Parameters
    ----------
    points
        float [N, D], on a CUDA device.
    task
        What to select.
    players
        How many of the farthest points compete in a round; None for a number that suits the points.

    Returns
    -------
    tuple of Tensor
        Selected rows, int64 [M], and the covering radius after each pick, float64 [M].
    """
    with torch.cuda.device_of(points):
        return GreedyOnGpu(points, task, players).run()


class GreedyOnGpu:
    """One selection in progress; see the module for the method.

    Parameters
    ----------
    points
        [N, D] on the GPU, floating point, finite, D up to `quantisation.MAX_DIMS`.
    task
        The selection to make.
    players
        How many points take part in a round, at most; None for a number that suits N.
    """

    def __init__(self, points: Tensor, task: Task, players: int | None = None) -> None:
        n, device = len(points), points.device
        self._task = task
        self._most = min(n, players or min(MAX_PLAYERS, max(MIN_PLAYERS, n // 32)))
        self._players = min(self._most, MIN_PLAYERS)
        self._search = Search(points)
        self._points = self._search.encode(points)
        stop = -1.0 if task.radius is None else _largest_square(task.radius)
        self._stop = torch.tensor([stop], dtype=torch.float64, device=device)
        self._picks = torch.empty(task.count, dtype=torch.int64, device=device)
        self._values = torch.empty(task.count, dtype=torch.float64, device=device)  # squared radii before each pick
        self._pick_count = 0
        self._best = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
        self._nearest = torch.zeros(n, dtype=torch.int64, device=device)
        first = self._best[:1].clone()
        if task.earlier is not None:
            self._best = task.earlier.clone()
        self._take(torch.tensor([task.start], device=device), first)

    def run(self) -> tuple[Tensor, Tensor]:
        """Return the picks in order, int64 [m], and the covering radius after each, float64 [m], on the CPU."""
        while self._pick_count < self._task.count and self._round():
            self._task.report(self._pick_count)
        last = self._best.max().clamp_(min=0.0)
        values = torch.cat([self._values[1 : self._pick_count], last[None]]).cpu()
        return self._picks[: self._pick_count].clone(), torch.from_numpy(np.sqrt(values.numpy()))

    def _round(self) -> int:
        """Play one round; return the number of picks, 0 if the selection is complete."""
        size, device = self._players, self._best.device
        order = self._best.sort(descending=True, stable=True)
        rows = order.indices[:size].sort().values
        if size < len(self._best):
            threshold, outsider = order.values[size : size + 1], order.indices[size]
        else:
            threshold, outsider = torch.full((1,), -math.inf, dtype=torch.float64, device=device), rows[0]
        best = self._best[rows]
        mutual = self._search.distances_below(self._points[rows], best)
        picked = torch.empty(size, dtype=torch.int32, device=device)
        values = torch.empty(size, dtype=torch.float64, device=device)
        number = torch.empty(1, dtype=torch.int32, device=device)
        limit = min(size, self._task.count - self._pick_count)
        _gpu_triton.play_out[(1,)](
            *(best, mutual, threshold, self._stop, (rows < outsider).sum(), picked, values, number, size, limit),
            BLOCK=triton.next_power_of_2(size),
            num_warps=16,
            enable_fp_fusion=False,
        )
        count = int(number)
        if count:
            self._take(rows[picked[:count].long()], values[:count])
        if 8 * count > size:
            # Early picks lie far apart, each close to most players. Later, more players mean fewer rounds.
            self._players = min(self._most, 2 * size)
        return count

    def _take(self, rows: Tensor, values: Tensor) -> None:
        """Add `rows` to the picks, and compare all points with them."""
        new = slice(self._pick_count, self._pick_count + len(rows))
        self._picks[new], self._values[new] = rows, values
        self._pick_count += len(rows)
        self._best[rows] = -1.0  # never picked again, not even if only copies are left
        self._search.compare(self._points, self._points[rows], self._best, self._nearest)


def _largest_square(radius: float) -> float:
    """Return the largest value whose square root, as reported, is at most `radius`."""
    square = radius * radius
    while math.sqrt(square) > radius:
        square = math.nextafter(square, 0.0)
    while square < math.inf and math.sqrt(math.nextafter(square, math.inf)) <= radius:
        square = math.nextafter(square, math.inf)
    return square
