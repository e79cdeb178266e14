"""Greedy k-center by lazy bounds and batched play-out, compiled: `lazy` with an exit for every single point.

The round is that of `lazy`. Compiled, it is simpler: each point keeps the exact distance to the nearest of the picks
that it has met. Products of 8-bit codes (`quantised`) dismiss nearly all pairs, float64 differences decide the
others at once, and a point leaves at the first pick that brings it below everything outside.

Codes tell distances apart down to a few hundredths of the points' spread. Where the picks come to lie closer than
that, nearly all pairs would be decided in float64; the selection is then given up, and `lazy` makes it.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import torch
from torch import Tensor

from patchcore_plugin.kernels import compiled
from patchcore_plugin.kernels.native import native
from patchcore_plugin.kernels.quantised import Grid
from patchcore_plugin.kernels.screening import root

MAX_PLAYERS = 4096
WIDER = 8
"""At least so many times the players are brought up to date at once."""
WORK = 4e9
"""Products that a refresh may cost where that brings more up to date."""
BUDGET = 128.0
"""Exact distances for each row, on average, after which a selection is given up."""
SLICE = 256
"""Rows that one thread refreshes at a time."""


def greedy(
    points: Tensor,
    count: int,
    start: int,
    *,
    radius: float | None = None,
    known: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Return what `greedy_coreset` returns, for points that `compiled.serves`; None if codes are too coarse.

    `known`, float64 [N], is the squared distance of each row to what was selected elsewhere before.
    """
    with compiled.workers() as each:
        return _Selection(points.float().contiguous(), count, start, radius, known, each).run(progress)


class _Selection:
    """A selection in progress; kernels.h of patchcore-native says what the arrays are."""

    def __init__(
        self,
        points: Tensor,
        count: int,
        start: int,
        radius: float | None,
        known: Tensor | None,
        each: compiled.Each,
    ) -> None:
        n, dims = points.shape
        module = native()
        self._each = each
        self._count = count
        self._library = compiled.library()
        self._codes = compiled.encode(points, grid := Grid(points, self._library.patchcore_levels()), each)
        padded = self._codes.codes.shape[1]
        cells = max(1, min(module.MAX_CELLS, n // 256))
        self._players = min(MAX_PLAYERS, n)
        in_order = compiled.lanes(count)
        in_cells = (count // module.LINK + cells + 1) * module.LINK
        seated = compiled.lanes(self._players)
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
            "player_panels": torch.empty(seated * padded, dtype=torch.uint8),
            "player_norms": torch.empty(seated, dtype=whole),
            "player_reaches": torch.empty(seated, dtype=single),
            "player_best": torch.empty(seated, dtype=double),
            "player_rows": torch.empty(seated, dtype=whole),
        }
        self._state = module.Coreset(
            count=n,
            dims=dims,
            padded=padded,
            wanted=count,
            cells=cells,
            steps=1.0 / grid.step,
            stop=-1.0 if radius is None else radius,
            **{name: compiled.address(array) for name, array in self._arrays.items()},
        )
        self._at = ctypes.addressof(self._state)
        self._spent: list[int] = []
        self._keys, self._rows = torch.empty(n, dtype=wide), torch.empty(n, dtype=wide)
        self._late, self._missed = torch.empty(n, dtype=whole), ctypes.c_int64()
        if cells > 1:
            self._find_cells(cells)
        self._start(points, start, known)

    def _find_cells(self, cells: int) -> None:
        codes, n = self._codes, len(self._codes.norms)
        padded = codes.codes.shape[1]
        panels, norms, _ = compiled.pack(codes, torch.arange(cells) * (n // cells))

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

        self._each(part, n, 8192)

    def _start(self, points: Tensor, start: int, known: Tensor | None) -> None:
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

        self._each(part, n, 4096)
        if known is not None:
            torch.minimum(best, known, out=best)
        # The first pick is seated and taken as all others are, ahead of everybody.
        best[start] = math.inf
        first = torch.tensor([start])
        self._library.patchcore_play(self._at, compiled.address(first), 1, 0.0, n)

    def run(self, progress: Callable[[int, int], None] | None) -> tuple[Tensor, Tensor] | None:
        """Return the picks in order and the covering radius after each, or None."""
        done = False
        while not done:
            if sum(self._spent) > BUDGET * self._state.count:
                return None
            rows = self._first(self._players)
            if not rows:
                self._take_copies()
                break
            behind = self._behind(rows)
            if behind:
                # More than will play, because few picks are quickly met, and it lowers the threshold.
                affordable = WORK / (self._state.padded * self._missed.value / behind)
                self._refresh(self._behind(self._first(max(WIDER * self._players, int(affordable)))))
                continue
            done = bool(
                self._library.patchcore_play(self._at, self._rows.data_ptr(), rows, self._threshold, self._outsider)
            )
            if progress is not None:
                progress(self._state.made, self._count)
        made = self._state.made
        return self._arrays["picks"][:made].clone(), root(self._arrays["values"][1 : made + 1])

    def _first(self, size: int) -> int:
        """Find the first rows in order, and value and row of the first one outside; return how many there are."""
        threshold, outsider = ctypes.c_double(), ctypes.c_int64()
        found: int = self._library.patchcore_first(
            self._arrays["best"].data_ptr(),
            self._state.count,
            size,
            self._keys.data_ptr(),
            self._rows.data_ptr(),
            ctypes.addressof(threshold),
            ctypes.addressof(outsider),
        )
        self._threshold, self._outsider = threshold.value, outsider.value
        return found

    def _behind(self, count: int) -> int:
        """Find which of the first rows have not met all picks; return how many."""
        found: int = self._library.patchcore_behind(
            self._at, self._rows.data_ptr(), count, self._late.data_ptr(), ctypes.addressof(self._missed)
        )
        return found

    def _refresh(self, count: int) -> None:
        def part(low: int, high: int) -> None:
            at = self._late.data_ptr() + 4 * low
            self._spent.append(self._library.patchcore_refresh(self._at, at, high - low, self._threshold))

        self._each(part, count, SLICE)

    def _take_copies(self) -> None:
        """Fill up with what is left where every row is a copy of a pick."""
        state, best = self._state, self._arrays["best"]
        picks, values = self._arrays["picks"], self._arrays["values"]
        made = int(state.made)
        copies = (best == 0.0).nonzero().flatten()
        taken = copies[: self._count - made] if state.stop < 0.0 else copies[:0]
        picks[made : made + len(taken)] = taken
        values[made : made + len(taken) + 1] = 0.0
        state.made = made + len(taken)
