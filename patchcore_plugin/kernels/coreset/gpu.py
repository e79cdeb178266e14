r"""Greedy k-center on a GPU: the reference's selection, a few hundred picks a round.

A GPU multiplies so fast that nothing needs to be left out for want of arithmetic, as `lazy` does; what costs is that
picks come one after the other. So every point's squared distance to its nearest pick is kept exact, and a round is:

1. The first points by (distance descending, row ascending) are the players, `MAX_PLAYERS` of them once they pay; the
   first one left outside is the threshold.
2. Their mutual distances, in float64, are filled into one matrix: those that could change anything, which is where
   8-bit codes (`quantised`) cannot prove the distance to be above the player's own.
3. `play_out`, one program, runs the greedy selection among them for as long as the first of them comes before
   the threshold. Outside, values can only have fallen since, so each of its picks is the reference's.
4. All points meet the new picks as queries meet a bank in `nearest.gpu`: two 8-bit passes on the tensor cores and the
   float64 differences of what these leave.

Every decision rests on the float64 differences of `squared_distances`, in its order, so ties and copies are those of
the reference. The number of picks made is the only thing that a round waits for.

On paper, for N points, m picks, D values and B players: 4 N m D operations on 8-bit integers in all; per
round one sort of N values, 8 B^2 bytes of matrix and 4 B^2 D such operations; per pick one row of the matrix
and one reduction of B values in one program, about 2 microseconds, which is most of the time. About 15 launches for
hundreds of picks leave nothing for CUDA graphs to save.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import triton
from torch import Tensor

from patchcore_plugin.kernels.nearest.gpu import Search

from . import gpu_triton

MIN_PLAYERS = 512
MAX_PLAYERS = 4096


def greedy(
    points: Tensor,
    count: int,
    start: int,
    *,
    radius: float | None = None,
    known: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
    players: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the picks in order, int64 [m], and the covering radius after each, float64 [m], on the CPU.

    The parameters are those of `GreedyOnGpu`.
    """
    with torch.cuda.device_of(points):
        return GreedyOnGpu(points, count, start, radius=radius, known=known, progress=progress, players=players).run()


class GreedyOnGpu:
    """One selection in progress; see the module for how it works.

    Parameters
    ----------
    points
        [N, D], floating point, finite, D up to `quantised.MAX_DIMS`; on the GPU.
    count
        How many rows to select at most, 1 to N.
    start
        The first row.
    radius
        Stop as soon as no row is farther than this from its nearest pick; None to select `count`.
    known
        float64 [N]: squared distance of each row to what was selected elsewhere before; None if nothing was.
    progress
        Called after every round with the number of picks made and `count`.
    players
        How many points take part in a round at most; None for a number that suits N.
    """

    def __init__(
        self,
        points: Tensor,
        count: int,
        start: int,
        *,
        radius: float | None = None,
        known: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
        players: int | None = None,
    ) -> None:
        n, device = len(points), points.device
        self._count = count
        self._progress = progress
        self._most = min(n, players or min(MAX_PLAYERS, max(MIN_PLAYERS, n // 32)))
        self._players = min(self._most, MIN_PLAYERS)
        self._search = Search(points)
        self._points = self._search.encode(points)
        stop = -1.0 if radius is None else _largest_square(radius)
        self._stop = torch.tensor([stop], dtype=torch.float64, device=device)
        self._picks = torch.empty(count, dtype=torch.int64, device=device)
        self._values = torch.empty(count, dtype=torch.float64, device=device)  # squared radii before each pick
        self._made = 0
        self._best = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
        self._nearest = torch.zeros(n, dtype=torch.int64, device=device)
        first = self._best[:1].clone()
        if known is not None:
            self._best = known.clone()
        self._take(torch.tensor([start], device=device), first)

    def run(self) -> tuple[Tensor, Tensor]:
        """Return the picks in order, int64 [m], and the covering radius after each, float64 [m], on the CPU."""
        while self._made < self._count and self._round():
            if self._progress is not None:
                self._progress(self._made, self._count)
        last = self._best.max().clamp_(min=0.0)
        values = torch.cat([self._values[1 : self._made], last[None]]).cpu()
        return self._picks[: self._made].clone(), torch.from_numpy(np.sqrt(values.numpy()))

    def _round(self) -> int:
        """Play one round; return the number of picks made, 0 if no more are wanted."""
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
        made = torch.empty(1, dtype=torch.int32, device=device)
        room = min(size, self._count - self._made)
        gpu_triton.play_out[(1,)](
            *(best, mutual, threshold, self._stop, (rows < outsider).sum(), picked, values, made, size, room),
            BLOCK=triton.next_power_of_2(size),
            num_warps=16,
            enable_fp_fusion=False,
        )
        count = int(made)
        if count:
            self._take(rows[picked[:count].long()], values[:count])
        if 8 * count > size:
            # The first picks lie far apart, each close to most players; later more players mean fewer rounds.
            self._players = min(self._most, 2 * size)
        return count

    def _take(self, rows: Tensor, values: Tensor) -> None:
        """Make `rows` picks, and let all points meet them."""
        new = slice(self._made, self._made + len(rows))
        self._picks[new], self._values[new] = rows, values
        self._made += len(rows)
        self._best[rows] = -1.0  # a pick is never picked again, not even where only copies are left
        self._search.meet(self._points, self._points[rows], self._best, self._nearest)


def _largest_square(radius: float) -> float:
    """Return the largest value whose root, as it is reported, is within `radius`."""
    square = radius * radius
    while math.sqrt(square) > radius:
        square = math.nextafter(square, 0.0)
    while square < math.inf and math.sqrt(math.nextafter(square, math.inf)) <= radius:
        square = math.nextafter(square, math.inf)
    return square
