"""Greedy k-center by the compiled kernels: lazy bounds and batched play-out, with an early exit for every point.

A round is that of `lazy`, but simpler: each point holds the exact distance to the nearest pick compared so far.
Products of 8-bit codes (`quantisation`) dismiss nearly all pairs, float64 differences decide the others immediately,
and a point drops out at the first pick that puts it below everything outside.

Codes resolve distances down to a few hundredths of the spread of the points. If picks lie closer than that, nearly
all pairs would need float64. The selection then gives up, and the next backend makes it.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from patchcore_plugin.kernels import _native_calls
from patchcore_plugin.kernels._native import native
from patchcore_plugin.kernels.quantisation import Grid
from patchcore_plugin.kernels.screening import root

from .task import Task

MAX_PLAYERS = 4096
WIDER = 8
"""Refresh at least this many times the number of players at once."""
WORK = 4e9
"""Products that a refresh of more points may cost."""
BUDGET = 128.0
"""Exact distances per row, on average, after which a selection gives up."""
SLICE = 256
"""Rows that one thread refreshes at a time."""


def greedy(points: Tensor, task: Task) -> tuple[Tensor, Tensor] | None:
    """Select points greedily on the CPU.

    Parameters
    ----------
    points
        float [N, D]; `_native_calls.usable` must be true for them.
    task
        What to select.

    Returns
    -------
    tuple of Tensor, or None
        Selected rows, int64 [M], and the covering radius after each pick, float64 [M]; None if the codes of the points
        are too coarse.
    """
    with _native_calls.workers() as for_each_part:
        return _Selection(points.float().contiguous(), task, for_each_part).run()


class _Selection:
    """A selection in progress; kernels.h of patchcore-native describes the arrays."""

    def __init__(self, points: Tensor, task: Task, for_each_part: _native_calls.ForEachPart) -> None:
        n, dims = points.shape
        module, count = native(), task.count
        self._for_each_part = for_each_part
        self._task = task
        self._library = _native_calls.library()
        grid = Grid(points, self._library.patchcore_levels())
        self._codes = _native_calls.encode(points, grid, for_each_part)
        padded = self._codes.codes.shape[1]
        cells = max(1, min(module.MAX_CELLS, n // 256))
        self._players = min(MAX_PLAYERS, n)
        in_order = _native_calls.padded_lanes(count)
        in_cells = (count // module.LINK + cells + 1) * module.LINK
        player_lanes = _native_calls.padded_lanes(self._players)
        whole, wide, single, double = torch.int32, torch.int64, torch.float32, torch.float64
        self._arrays = {
            "points": points,
            "codes": self._codes.codes,
            "norms": self._codes.norms,
            "errors": self._codes.errors,
            "cell": torch.zeros(n, dtype=whole),
            "best": torch.empty(n, dtype=double),
            "bounded_by": torch.full((n,), -1, dtype=whole),
            "met": torch.ones(n, dtype=whole),
            "seen": torch.zeros(n, dtype=whole),
            "picks": torch.empty(count, dtype=wide),
            "values": torch.zeros(count + 1, dtype=double),
            "panels": torch.empty(in_order * padded, dtype=torch.uint8),
            "pick_norms": torch.zeros(in_order, dtype=whole),
            "pick_errors": torch.full((in_order,), module.NOWHERE, dtype=single),
            "cell_panels": torch.empty(in_cells * padded, dtype=torch.uint8),
            "cell_norms": torch.zeros(in_cells, dtype=whole),
            "cell_errors": torch.full((in_cells,), module.NOWHERE, dtype=single),
            "cell_picks": torch.zeros(in_cells, dtype=whole),
            "next": torch.zeros(in_cells // module.LINK, dtype=whole),
            "head": torch.zeros(cells, dtype=whole),
            "tail": torch.zeros(cells, dtype=whole),
            "sizes": torch.zeros(cells, dtype=whole),
            "player_panels": torch.empty(player_lanes * padded, dtype=torch.uint8),
            "player_norms": torch.empty(player_lanes, dtype=whole),
            "player_reaches": torch.empty(player_lanes, dtype=single),
            "player_best": torch.empty(player_lanes, dtype=double),
            "player_rows": torch.empty(player_lanes, dtype=whole),
        }
        self._state = module.Coreset(
            count=n,
            dims=dims,
            padded=padded,
            wanted=count,
            cells=cells,
            steps=1.0 / grid.step,
            stop=-1.0 if task.radius is None else task.radius,
            **{name: _native_calls.address(array) for name, array in self._arrays.items()},
        )
        self._at = ctypes.addressof(self._state)
        self._spent: list[int] = []
        self._keys, self._rows = torch.empty(n, dtype=wide), torch.empty(n, dtype=wide)
        self._late, self._missed = torch.empty(n, dtype=whole), ctypes.c_int64()
        if cells > 1:
            self._assign_cells(cells)
        self._start(points, task.start, task.earlier)

    def _assign_cells(self, cells: int) -> None:
        codes, n = self._codes, len(self._codes.norms)
        padded = codes.codes.shape[1]
        panels, norms, _ = _native_calls.pack(codes, torch.arange(cells) * (n // cells))

        def part(low: int, high: int) -> None:
            self._library.patchcore_cells(
                codes.codes.data_ptr() + low * padded,
                high - low,
                padded,
                panels.data_ptr(),
                norms.data_ptr(),
                cells,
                self._arrays["cell"].data_ptr() + 4 * low,
            )

        self._for_each_part(part, n, 8192)

    def _start(self, points: Tensor, start: int, earlier: Tensor | None) -> None:
        n, dims = points.shape
        best = self._arrays["best"]

        def part(low: int, high: int) -> None:
            self._library.patchcore_distances(
                points.data_ptr() + 4 * low * dims,
                points.data_ptr() + 4 * start * dims,
                high - low,
                dims,
                best.data_ptr() + 8 * low,
            )

        self._for_each_part(part, n, 4096)
        if earlier is not None:
            torch.minimum(best, earlier, out=best)
        # The first pick is made like all others, ahead of every other point.
        best[start] = math.inf
        first = torch.tensor([start])
        self._library.patchcore_play(self._at, _native_calls.address(first), 1, 0.0, n)

    def run(self) -> tuple[Tensor, Tensor] | None:
        """Return the picks in order and the covering radius after each, or None to give up."""
        complete = False
        while not complete:
            if sum(self._spent) > BUDGET * self._state.count:
                return None
            rows = self._first(self._players)
            if not rows:
                self._take_copies()
                break
            behind = self._behind(rows)
            if behind:
                # Refresh more points than will play: few picks are compared quickly, and the threshold falls.
                affordable = WORK / (self._state.padded * self._missed.value / behind)
                self._refresh(self._behind(self._first(max(WIDER * self._players, int(affordable)))))
                continue
            complete = bool(
                self._library.patchcore_play(self._at, self._rows.data_ptr(), rows, self._threshold, self._outsider)
            )
            self._task.report(self._state.made)
        count = self._state.made
        return self._arrays["picks"][:count].clone(), root(self._arrays["values"][1 : count + 1])

    def _first(self, size: int) -> int:
        """Write the first rows in order, and store value and row of the first one outside; return their number."""
        threshold, outsider = ctypes.c_double(), ctypes.c_int64()
        number: int = self._library.patchcore_first(
            self._arrays["best"].data_ptr(),
            self._state.count,
            size,
            self._keys.data_ptr(),
            self._rows.data_ptr(),
            ctypes.addressof(threshold),
            ctypes.addressof(outsider),
        )
        self._threshold, self._outsider = threshold.value, outsider.value
        return number

    def _behind(self, count: int) -> int:
        """Write which of the first rows were not compared with all picks; return their number."""
        number: int = self._library.patchcore_behind(
            self._at, self._rows.data_ptr(), count, self._late.data_ptr(), ctypes.addressof(self._missed)
        )
        return number

    def _refresh(self, count: int) -> None:
        def part(low: int, high: int) -> None:
            at = self._late.data_ptr() + 4 * low
            self._spent.append(self._library.patchcore_refresh(self._at, at, high - low, self._threshold))

        self._for_each_part(part, count, SLICE)

    def _take_copies(self) -> None:
        """Pick copies of picks, in order, once nothing else is left."""
        state, best = self._state, self._arrays["best"]
        picks, values = self._arrays["picks"], self._arrays["values"]
        count = int(state.made)
        copies = (best == 0.0).nonzero().flatten()[: self._task.count - count]
        if state.stop >= 0.0:
            copies = copies[:0]
        picks[count : count + len(copies)] = copies
        values[count : count + len(copies) + 1] = 0.0
        state.made = count + len(copies)
