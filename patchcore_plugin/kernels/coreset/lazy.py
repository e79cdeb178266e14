"""Greedy k-center by lazy bounds and batched play-out: the reference's selection, without its work.

The textbook loop reads all N points for every pick. Three facts make almost all of that needless:

*Bounds.* A point's distance to the picks only falls, so a stale value is an upper bound, and a point
whose bound is below the current maximum cannot be the next pick. It is left alone.

*Refreshing.* The points with the largest bounds are brought up to date against the picks that they have
not met, block by block, and leave as soon as they fall below everything outside. One float32
matrix product screens a block (`screening`): it gives each point its probably nearest pick, an upper
bound of the distance to that, and a lower bound of the distance to any other (the rival).

*Play-out.* The points that come before all others are settled: one float64 difference to the nearest pick,
and if the rival could still be nearer, a search among the picks that could. Their mutual distances are one
small matrix, and the exact greedy runs among them for hundreds of picks, until its maximum falls to the
largest bound outside.

All order is by (value descending, index ascending), outside as well as inside the play-out, so ties
are those of the reference, however many there are. Squared distances are scaled as in `screening`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from patchcore_plugin.kernels.screening import (
    Frame,
    Screening,
    chunk_rows,
    lower_bounds,
    squared_distances,
    squared_distances_of_pairs,
)

from .playout import PlayOut

MAX_PLAYERS = 1024
MAX_BLOCK = 512
MAX_CELLS = 64
MIN_PICKS = 64 * MAX_CELLS
"""Fewer picks than this are met without looking at cells first."""
WIDER = 8
"""At least so many times the players are brought up to date at once."""
WORK = 1e9
"""Products that a refresh may cost where that brings more up to date; a pair costs OVERHEAD besides its own."""
OVERHEAD = 256


class LazyGreedy:
    """One selection in progress; see the module for how it works.

    Parameters
    ----------
    points
        [N, D], floating point, finite.
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
    ) -> None:
        n, dims = points.shape
        device = points.device
        self._points = points
        self._count = count
        self._progress = progress
        self._frame = Frame(points)
        self._screened = Screening(self._frame, points)
        self._stop = -1.0 if radius is None else radius
        # The working matrices stay a fraction of the features, whatever the size of the job.
        self._players = min(MAX_PLAYERS, max(512, math.isqrt(n * dims // 24)))
        self._tile = 4 * self._players * min(MAX_BLOCK, max(64, n * dims // (40 * self._players)))
        self._block = self._tile // (4 * self._players)
        self._rows = max(4096, n // 20)  # at a time, because screening gathers a copy of them
        self._picks = torch.empty(count, dtype=torch.int64, device=device)
        self._values = np.zeros(count)  # values[k]: squared distance of pick k to those before it
        self._made = 0
        self._last = 0.0
        self._done = False
        self._pick(start, math.inf)
        self._bound = torch.empty(n, dtype=torch.float64, device=device)
        step = chunk_rows(points)
        for part, bound in zip(points.split(step), self._bound.split(step), strict=True):
            bound[:] = squared_distances(part, points[start]) * self._frame.scale**2
        if known is not None:
            # Who is nearer to one of those is taken to be near the first pick: no other is nearer than the bound.
            self._bound = torch.minimum(self._bound, known * self._frame.scale**2)
        self._bound[start] = -1.0  # a pick is never picked again, not even where only copies are left
        self._floor = self._bound.clone()
        self._nearest = torch.zeros(n, dtype=torch.int64, device=device)  # which pick, by order
        self._rival = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
        self._met = torch.ones(n, dtype=torch.int64, device=device)
        self._cell = self._cells(min(MAX_CELLS, n // 256) if count >= MIN_PICKS else 1)
        self._searched = torch.zeros(n, dtype=torch.int64, device=device)  # picks looked through in the own cell

    def run(self) -> tuple[Tensor, Tensor]:
        """Return the picks in order, int64 [m], and the covering radius after each, float64 [m]."""
        while not self._finished():
            rows, threshold, outsider = self._first()
            if len(rows):
                self._play_out(rows, threshold, outsider)
            if self._progress is not None:
                self._progress(self._made, self._count)
        values = np.append(self._values[1 : self._made], self._last)
        return self._picks[: self._made].clone(), torch.from_numpy(np.sqrt(values) / self._frame.scale)

    def _pick(self, row: int, value: float) -> bool:
        """Take `row` as the next pick; False, and the last covering radius noted, if no more are wanted."""
        if self._made == self._count or (self._made and self._radius(value) <= self._stop):
            self._last = value
            self._done = True
            return False
        self._picks[self._made] = row
        self._values[self._made] = value
        self._made += 1
        return True

    def _radius(self, value: float) -> float:
        """Return the radius of a squared one, to the bit as `run` does, so that a reported one stops where it was."""
        return math.sqrt(value) / self._frame.scale

    def _finished(self) -> bool:
        if not self._done and float(self._bound.max()) <= 0.0:
            # Whatever is left is a copy of a pick.
            self._done = True
            for row in (self._bound == 0.0).nonzero().flatten().tolist():
                if not self._pick(row, 0.0):
                    break
        return self._done

    def _first(self) -> tuple[Tensor, float, int]:
        """Return the rows that come first in order, exact, with value and row of the first one outside."""
        while True:
            rows, threshold, outsider = _first_in_order(self._bound, self._players)
            behind = self._made - self._met[rows]
            if behind.any():
                # Few picks to meet make it cheap to refresh many points, which brings the threshold down;
                # but among many there can be some that have met very few.
                size = WIDER * self._players
                pairs = WORK / (self._points.shape[1] + OVERHEAD)
                rows, threshold, _ = _first_in_order(self._bound, max(size, int(pairs / float(behind.double().mean()))))
                if size < len(rows) and int((self._made - self._met[rows]).sum()) > 2 * pairs:
                    rows, threshold, _ = _first_in_order(self._bound, size)
                self._refresh(rows, threshold)
                continue
            self._settle(rows)
            bound = self._bound[rows]
            ahead = (bound > threshold) | ((bound == threshold) & (rows < outsider))
            if 2 * int(ahead.sum()) >= len(rows):
                return rows[ahead], threshold, outsider

    def _cells(self, count: int) -> Tensor:
        """Return for each point which of `count` points, spread evenly over the rows, is the nearest."""
        cell = torch.zeros(len(self._points), dtype=torch.int64, device=self._points.device)
        if count > 1:
            rows = torch.arange(len(cell), device=cell.device)
            seeds = self._screened[rows[:: len(rows) // count]]
            for part in rows.split(min(self._rows, self._tile // count)):
                cell[part] = lower_bounds(self._screened[part], seeds).argmin(dim=1)
        return cell

    def _search_cells(self, rows: Tensor) -> None:
        """Compare `rows` with the new picks of their own cells: nearly always one of those is near enough."""
        cells = self._cell[rows]
        order = cells.argsort()
        cells, sizes = cells[order].unique_consecutive(return_counts=True)
        pick_cells = self._cell[self._picks[: self._made]]
        for cell, part in zip(cells, rows[order].split(sizes.tolist()), strict=True):
            low = int(self._searched[part].min())
            picks = (pick_cells[low:] == cell).nonzero().flatten() + low
            if len(picks):
                for few in part.split(min(self._rows, max(1, self._tile // len(picks)))):
                    self._meet(few, picks)
        self._searched[rows] = self._made

    def _refresh(self, rows: Tensor, threshold: float) -> None:
        """Let `rows` meet the picks made since, but for those that fall below `threshold` on the way."""
        if self._count >= MIN_PICKS and self._made >= 16 * MAX_CELLS:
            self._search_cells(rows[self._searched[rows] < self._made])
        while True:
            rows = rows[(self._met[rows] < self._made) & (self._bound[rows] >= threshold)]
            if not len(rows):
                return
            met = self._met[rows]
            low = int(met.min())
            later = met[met > low]
            high = min(low + self._block, int(later.min()) if len(later) else self._made)
            picks = torch.arange(low, high, device=rows.device)
            for part in rows[met == low].split(min(self._rows, max(1, self._tile // (high - low)))):
                self._meet(part, picks)
                self._met[part] = high

    def _meet(self, rows: Tensor, picks: Tensor) -> None:
        """Compare `rows` with `picks` (ascending, by order), whether or not they met before."""
        points, others = self._screened[rows], self._screened[self._picks[picks]]
        partial = lower_bounds(points, others)
        nearest = self._nearest[rows]
        place = torch.searchsorted(picks, nearest).clamp_(max=len(picks) - 1)
        known = (picks[place] == nearest).nonzero().flatten()
        partial[known, place[known]] = torch.inf  # it is the nearest already, not a rival
        low, which = partial.min(dim=1)
        second = partial.scatter_(1, which[:, None], torch.inf).amin(dim=1)
        low, second = low.double() + points.lowered, second.double() + points.lowered
        high = low + self._frame.slack(points.norms, others.norms[which])
        nearer = high < self._bound[rows]
        other = torch.where(nearer, torch.minimum(self._floor[rows], second), low)
        self._rival[rows] = torch.minimum(self._rival[rows], other)
        rows = rows[nearer]
        self._bound[rows] = high[nearer]
        self._floor[rows] = low[nearer]
        self._nearest[rows] = picks[which[nearer]]

    def _settle(self, rows: Tensor) -> None:
        """Make the bounds of `rows`, which have met all picks, exact."""
        rows = rows[torch.minimum(self._floor[rows], self._rival[rows]) < self._bound[rows]]
        self._bound[rows] = self._exact(rows, self._picks[self._nearest[rows]])
        doubtful = rows[self._rival[rows] < self._bound[rows]]
        for part in doubtful.split(max(1, self._tile // self._block)):
            self._search(part)
        self._floor[rows] = self._bound[rows]

    def _search(self, rows: Tensor) -> None:
        """Compare with every pick that could be nearer than the bound."""
        bound, nearest = self._bound[rows], self._nearest[rows]
        points = self._screened[rows]
        limit = (bound - points.lowered).float()[:, None]
        for picks in torch.arange(self._made, device=rows.device).split(self._block):
            pairs = (lower_bounds(points, self._screened[self._picks[picks]]) <= limit).nonzero()
            mine, others = pairs[:, 0], picks[pairs[:, 1]]
            exact = self._exact(rows[mine], self._picks[others])
            bound.scatter_reduce_(0, mine, exact, "amin")
            attained = exact == bound[mine]
            nearest[mine[attained]] = others[attained]
        self._bound[rows] = self._rival[rows] = bound
        self._nearest[rows] = nearest

    def _exact(self, rows: Tensor, others: Tensor) -> Tensor:
        """Squared distances of pairs, scaled (a power of two, so nothing is rounded)."""
        return squared_distances_of_pairs(self._points, self._points, rows, others) * self._frame.scale**2

    def _play_out(self, rows: Tensor, threshold: float, outsider: int) -> None:
        """Run the exact greedy among `rows` while its maximum comes before everything outside."""
        game = PlayOut(self._points[rows], self._bound[rows], self._frame)
        numbers = rows.tolist()
        before = self._made
        while True:
            i, value = game.farthest()
            row = numbers[i]
            if value < threshold or (value == threshold and row > outsider) or value <= 0.0:
                break
            if not self._pick(row, value):
                break
            game.take(i)
        self._met[rows] = self._made
        self._bound[rows], self._floor[rows], self._rival[rows], nearest = game.result()
        changed = nearest >= 0
        self._nearest[rows[changed]] = before + nearest[changed]


def _first_in_order(values: Tensor, size: int) -> tuple[Tensor, float, int]:
    """Return the first `size` positive rows by (value descending, row ascending), as ascending rows.

    With them come the value and row of the first one left outside; 0 and -1 if nothing above 0 is.
    """
    level = float(values.topk(size).values[-1]) if size < len(values) else 0.0
    if level <= 0.0:
        return (values > 0.0).nonzero().flatten(), 0.0, -1
    above = (values > level).nonzero().flatten()
    ties = (values == level).nonzero().flatten()
    room = size - len(above)
    rows = torch.cat([above, ties[:room]]).sort().values
    if len(ties) > room:
        return rows, level, int(ties[room])
    outside = values.masked_fill(values >= level, -1.0).max(dim=0)
    if float(outside.values) <= 0.0:
        return rows, 0.0, -1
    return rows, float(outside.values), int(outside.indices)
