"""The search for nearest rows: copies set aside, then the best kernels for where the rows are."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from patchcore_plugin.kernels.compiled import serves
from patchcore_plugin.kernels.gpu import serves as gpu_serves

from .compiled import CompiledRows
from .distinct import distinct_rows
from .rounded import RoundedRows, fast
from .screened import ScreenedRows


class NearestRows:
    """A bank made ready to be searched.

    Parameters
    ----------
    bank
        [M, D], floating point, finite, M at least 1.
    """

    def __init__(self, bank: Tensor) -> None:
        self.bank = bank
        # Thousands of copies of one row (a flat background) would all be candidates of their neighbours.
        distinct = distinct_rows(bank)
        self._distinct = None if len(distinct) == len(bank) else distinct
        self._compiled: dict[bool, CompiledRows] = {}
        self._gpu: Any = None
        self._rounded: RoundedRows | None = None
        self._screened: dict[bool, ScreenedRows] = {}
        self(bank[:1])  # whatever is wrong with the bank shows now, and a first search takes no longer than the next

    def __call__(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distance, float64 [Q, k], and row, int64 [Q, k]: nearest first, ties to the lowest row.

        Parameters
        ----------
        queries
            [Q, D], floating point, finite.
        k
            How many rows to find, 1 to M.
        """
        every = k > 1 or self._distinct is None
        if k == 1 and gpu_serves(self.bank) and queries.device == self.bank.device:
            if self._gpu is None:
                from .gpu import GpuRows  # needs triton

                self._gpu = GpuRows(self._rows(every))
            distance, row = self._gpu(queries)
        elif serves(self.bank) and serves(queries):
            if every not in self._compiled:
                self._compiled[every] = CompiledRows(self._rows(every))
            distance, row = self._compiled[every](queries, k)
        elif k == 1 and fast(self.bank) and fast(queries):
            self._rounded = self._rounded or RoundedRows(self._rows(every))
            distance, row = self._rounded(queries)
        else:
            distance, row = self._with_products(queries, k, every)
        given_up = (row[:, 0] < 0).nonzero().flatten()
        if len(given_up):
            distance[given_up], row[given_up] = self._with_products(queries[given_up], k, every)
        return distance, row if every or self._distinct is None else self._distinct[row]

    def _rows(self, every: bool) -> Tensor:
        return self.bank if every or self._distinct is None else self.bank[self._distinct]

    def _with_products(self, queries: Tensor, k: int, every: bool) -> tuple[Tensor, Tensor]:
        if every not in self._screened:
            self._screened[every] = ScreenedRows(self._rows(every))
        return self._screened[every](queries, k)
