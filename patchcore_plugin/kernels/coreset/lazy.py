"""Greedy k-center by lazy bounds and batched play-out: the selection of the reference with a fraction of its work.

The textbook loop reads all N points for every pick. Three ideas avoid almost all of that:

*Bounds.* The distance of a point to the picks only falls, so an old value is an upper bound, and a point whose bound is
below the current maximum cannot be the next pick. Such points are skipped.

*Refreshing.* The points with the largest bounds are compared with the picks made since their last comparison, block by
block, and drop out as soon as they fall below everything outside. One float32 matrix product screens a block
(`screening`): it gives each point its probable nearest pick, an upper bound of the distance to it, and a lower bound of
the distance to all other picks (the rival).

*Play-out.* The points that come before all others are made exact: one float64 difference to the nearest pick and, if
the rival could be nearer, a search among the picks that could. Their mutual distances form one small matrix, and the
exact greedy selection runs among them for hundreds of picks, until its maximum falls to the largest bound outside.

All order is by (value descending, index ascending), outside and inside the play-out, so any number of ties is resolved
like in the reference. Squared distances are scaled as described in `screening`.
"""

from __future__ import annotations

import math

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
from .task import Task

MAX_PLAYERS = 1024
MAX_BLOCK = 512
MAX_CELLS = 64
MIN_PICKS = 64 * MAX_CELLS
"""Use cells only for selections of at least this many picks."""
WIDER = 8
"""Refresh at least this many times the number of players at once."""
WORK = 1e9
"""Products that a refresh of more points may cost."""
OVERHEAD = 256
"""Cost of a pair in addition to its own products."""


class LazyGreedy:
    """One selection in progress; see the module for the method.

    Parameters
    ----------
    points
        [N, D], floating point, finite.
    task
        The selection to make.
    """

    def __init__(self, points: Tensor, task: Task) -> None:
        n, dims = points.shape
        device = points.device
        self._points = points
        self._task = task
        self._frame = Frame(points)
        self._screened = Screening(self._frame, points)
        self._stop = -1.0 if task.radius is None else task.radius
        # The working matrices take a fraction of the memory of the features, for any N and D.
        self._players = min(MAX_PLAYERS, max(512, math.isqrt(n * dims // 24)))
        self._tile = 4 * self._players * min(MAX_BLOCK, max(64, n * dims // (40 * self._players)))
        self._block = self._tile // (4 * self._players)
        self._rows = max(4096, n // 20)  # at a time: screening copies them
        self._picks = torch.empty(task.count, dtype=torch.int64, device=device)
        self._values = np.zeros(task.count)  # values[k]: squared distance of pick k to those before it
        self._pick_count = 0
        self._last = 0.0
        self._complete = False
        self._pick(task.start, math.inf)
        self._bound = torch.empty(n, dtype=torch.float64, device=device)
        step = chunk_rows(points)
        for part, bound in zip(points.split(step), self._bound.split(step), strict=True):
            bound[:] = squared_distances(part, points[task.start]) * self._frame.scale**2
        self._earlier = None if task.earlier is None else task.earlier * self._frame.scale**2
        if self._earlier is not None:
            self._bound = torch.minimum(self._bound, self._earlier)
        self._bound[task.start] = -1.0  # never picked again, not even if only copies are left
        self._floor = self._bound.clone()
        self._nearest = torch.zeros(n, dtype=torch.int64, device=device)  # number of the pick
        self._rival = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
        self._met = torch.ones(n, dtype=torch.int64, device=device)
        self._cell = self._cells(min(MAX_CELLS, n // 256) if task.count >= MIN_PICKS else 1)
        self._searched = torch.zeros(n, dtype=torch.int64, device=device)  # number of picks compared in the own cell

    def run(self) -> tuple[Tensor, Tensor]:
        """Return the picks in order, int64 [m], and the covering radius after each, float64 [m]."""
        while not self._is_complete():
            rows, threshold, outsider = self._first()
            if len(rows):
                self._play_out(rows, threshold, outsider)
            self._task.report(self._pick_count)
        values = np.append(self._values[1 : self._pick_count], self._last)
        return self._picks[: self._pick_count].clone(), torch.from_numpy(np.sqrt(values) / self._frame.scale)

    def _pick(self, row: int, value: float) -> bool:
        """Add `row` to the picks; if the selection is complete, store the last covering radius and return False."""
        if self._pick_count == self._task.count or (self._pick_count and self._radius(value) <= self._stop):
            self._last = value
            self._complete = True
            return False
        self._picks[self._pick_count] = row
        self._values[self._pick_count] = value
        self._pick_count += 1
        return True

    def _radius(self, value: float) -> float:
        """Return the root of a squared radius with the bits that `run` reports."""
        return math.sqrt(value) / self._frame.scale

    def _is_complete(self) -> bool:
        if not self._complete and float(self._bound.max()) <= 0.0:
            # All remaining points are copies of picks.
            self._complete = True
            for row in (self._bound == 0.0).nonzero().flatten().tolist():
                if not self._pick(row, 0.0):
                    break
        return self._complete

    def _first(self) -> tuple[Tensor, float, int]:
        """Return the first rows in order, with exact bounds, and value and row of the first one outside."""
        while True:
            rows, threshold, outsider = _first_in_order(self._bound, self._players)
            behind = self._pick_count - self._met[rows]
            if behind.any():
                # With few picks to compare, refreshing many points is cheap and lowers the threshold. But some of many
                # points can be far behind.
                size = WIDER * self._players
                pairs = WORK / (self._points.shape[1] + OVERHEAD)
                rows, threshold, _ = _first_in_order(self._bound, max(size, int(pairs / float(behind.double().mean()))))
                if size < len(rows) and int((self._pick_count - self._met[rows]).sum()) > 2 * pairs:
                    rows, threshold, _ = _first_in_order(self._bound, size)
                self._refresh(rows, threshold)
                continue
            self._settle(rows)
            bound = self._bound[rows]
            ahead = (bound > threshold) | ((bound == threshold) & (rows < outsider))
            if 2 * int(ahead.sum()) >= len(rows):
                return rows[ahead], threshold, outsider

    def _cells(self, count: int) -> Tensor:
        """Return the nearest of `count` seeds, spread evenly over the rows, for each point."""
        cell = torch.zeros(len(self._points), dtype=torch.int64, device=self._points.device)
        if count > 1:
            rows = torch.arange(len(cell), device=cell.device)
            seeds = self._screened[rows[:: len(rows) // count]]
            for part in rows.split(min(self._rows, self._tile // count)):
                cell[part] = lower_bounds(self._screened[part], seeds).argmin(dim=1)
        return cell

    def _search_cells(self, rows: Tensor) -> None:
        """Compare `rows` with the new picks of their own cells, one of which is nearly always near enough."""
        cells = self._cell[rows]
        order = cells.argsort()
        cells, sizes = cells[order].unique_consecutive(return_counts=True)
        pick_cells = self._cell[self._picks[: self._pick_count]]
        for cell, part in zip(cells, rows[order].split(sizes.tolist()), strict=True):
            low = int(self._searched[part].min())
            picks = (pick_cells[low:] == cell).nonzero().flatten() + low
            if len(picks):
                for few in part.split(min(self._rows, max(1, self._tile // len(picks)))):
                    self._compare(few, picks)
        self._searched[rows] = self._pick_count

    def _refresh(self, rows: Tensor, threshold: float) -> None:
        """Compare `rows` with the picks that they were not compared with, until they fall below `threshold`."""
        if self._task.count >= MIN_PICKS and self._pick_count >= 16 * MAX_CELLS:
            self._search_cells(rows[self._searched[rows] < self._pick_count])
        while True:
            rows = rows[(self._met[rows] < self._pick_count) & (self._bound[rows] >= threshold)]
            if not len(rows):
                return
            met = self._met[rows]
            low = int(met.min())
            later = met[met > low]
            high = min(low + self._block, int(later.min()) if len(later) else self._pick_count)
            picks = torch.arange(low, high, device=rows.device)
            for part in rows[met == low].split(min(self._rows, max(1, self._tile // (high - low)))):
                self._compare(part, picks)
                self._met[part] = high

    def _compare(self, rows: Tensor, picks: Tensor) -> None:
        """Compare `rows` with `picks` (numbers, ascending), possibly again, and update their bounds."""
        points, others = self._screened[rows], self._screened[self._picks[picks]]
        partial = lower_bounds(points, others)
        nearest = self._nearest[rows]
        place = torch.searchsorted(picks, nearest).clamp_(max=len(picks) - 1)
        known = (picks[place] == nearest).nonzero().flatten()
        partial[known, place[known]] = torch.inf  # already the nearest, so not a rival
        low, which = partial.min(dim=1)
        second = partial.scatter_(1, which[:, None], torch.inf).amin(dim=1)
        low, second = low.double() + points.lowered, second.double() + points.lowered
        high = low + self._frame.slack(points.norms, others.norms[which])
        nearer = high < self._bound[rows]
        rival = torch.where(nearer, torch.minimum(self._floor[rows], second), low)
        self._rival[rows] = torch.minimum(self._rival[rows], rival)
        rows = rows[nearer]
        self._bound[rows] = high[nearer]
        self._floor[rows] = low[nearer]
        self._nearest[rows] = picks[which[nearer]]

    def _settle(self, rows: Tensor) -> None:
        """Make the bounds of `rows`, which were compared with all picks, exact."""
        rows = rows[torch.minimum(self._floor[rows], self._rival[rows]) < self._bound[rows]]
        exact = self._exact(rows, self._picks[self._nearest[rows]])
        self._bound[rows] = exact if self._earlier is None else torch.minimum(exact, self._earlier[rows])
        doubtful = rows[self._rival[rows] < self._bound[rows]]
        for part in doubtful.split(max(1, self._tile // self._block)):
            self._search(part)
        self._floor[rows] = self._bound[rows]

    def _search(self, rows: Tensor) -> None:
        """Compute the distances of `rows` to all picks that could be nearer than their bounds."""
        bound, nearest = self._bound[rows], self._nearest[rows]
        points = self._screened[rows]
        limit = (bound - points.lowered).float()[:, None]
        for picks in torch.arange(self._pick_count, device=rows.device).split(self._block):
            pairs = (lower_bounds(points, self._screened[self._picks[picks]]) <= limit).nonzero()
            place, number = pairs[:, 0], picks[pairs[:, 1]]
            exact = self._exact(rows[place], self._picks[number])
            bound.scatter_reduce_(0, place, exact, "amin")
            attained = exact == bound[place]
            nearest[place[attained]] = number[attained]
        self._bound[rows] = self._rival[rows] = bound
        self._nearest[rows] = nearest

    def _exact(self, rows: Tensor, others: Tensor) -> Tensor:
        """Return squared distances of pairs, scaled by a power of two, so without rounding."""
        return squared_distances_of_pairs(self._points, self._points, rows, others) * self._frame.scale**2

    def _play_out(self, rows: Tensor, threshold: float, outsider: int) -> None:
        """Run the exact greedy selection among `rows` while its maximum comes before everything outside."""
        game = PlayOut(self._points[rows], self._bound[rows], self._frame)
        numbers = rows.tolist()
        before = self._pick_count
        while True:
            i, value = game.farthest()
            row = numbers[i]
            if value < threshold or (value == threshold and row > outsider) or value <= 0.0:
                break
            if not self._pick(row, value):
                break
            game.take(i)
        self._met[rows] = self._pick_count
        self._bound[rows], self._floor[rows], self._rival[rows], nearest = game.result()
        changed = nearest >= 0
        self._nearest[rows[changed]] = before + nearest[changed]


def _first_in_order(values: Tensor, size: int) -> tuple[Tensor, float, int]:
    """Return the first `size` rows with positive values by (value descending, row ascending), in ascending order.

    Also return value and row of the first one outside, 0 and -1 if no positive value is outside.
    """
    level = float(values.topk(size).values[-1]) if size < len(values) else 0.0
    if level <= 0.0:
        return (values > 0.0).nonzero().flatten(), 0.0, -1
    above = (values > level).nonzero().flatten()
    ties = (values == level).nonzero().flatten()
    free = size - len(above)
    rows = torch.cat([above, ties[:free]]).sort().values
    if len(ties) > free:
        return rows, level, int(ties[free])
    outside = values.masked_fill(values >= level, -1.0).max(dim=0)
    if float(outside.values) <= 0.0:
        return rows, 0.0, -1
    return rows, float(outside.values), int(outside.indices)
