"""Exact nearest rows of a memory bank (PatchCore equation 6)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from patchcore_plugin.kernels import _native_calls, _triton
from patchcore_plugin.kernels.backend import Backend, usable_backends

from . import int8
from .deduplicate import distinct_rows
from .float32 import Float32Rows
from .int8 import Int8Rows
from .native import NativeRows

__all__ = ["NearestRows"]

Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Takes queries [Q, D] and k; returns distances and rows, [Q, k] each. Row -1 means that the search gave up."""


def _prepare_triton(bank: Tensor) -> Search:
    from .gpu import GpuRows  # imports triton

    return GpuRows(bank)


BACKENDS: tuple[Backend[[Tensor, int], tuple[Tensor, Tensor]], ...] = (
    Backend(
        "Triton",
        usable=lambda bank, queries, k: k == 1 and _triton.usable(bank) and queries.device == bank.device,
        prepare=_prepare_triton,
    ),
    Backend(
        "compiled",
        usable=lambda bank, queries, k: _native_calls.usable(bank) and _native_calls.usable(queries),
        prepare=NativeRows,
    ),
    Backend(
        "torch, int8",
        usable=lambda bank, queries, k: k == 1 and int8.usable(bank) and int8.usable(queries),
        prepare=Int8Rows,
    ),
    Backend("torch, float32", usable=lambda bank, queries, k: True, prepare=Float32Rows),
)
"""In order of preference. The last one never gives up."""


class NearestRows:
    """Search a memory bank for the rows nearest to queries.

    The result is that of `reference.nearest_rows` whichever backend computes it: float64 distances by direct
    differences, ties to the lowest row.

    Parameters
    ----------
    bank
        [M, D], floating point, finite, M at least 1.

    Raises
    ------
    TensorError
        For values that are not finite.

    Examples
    --------
    >>> import torch
    >>> search = NearestRows(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
    >>> distance, row = search(torch.tensor([[0.0, 0.0]]), k=2)
    >>> distance.tolist(), row.tolist()
    ([[0.0, 1.0]], [[0, 2]])
    """

    def __init__(self, bank: Tensor) -> None:
        self.bank = bank
        # Thousands of copies of one row (a flat background) would all be candidates for queries near them.
        distinct = distinct_rows(bank)
        self._distinct = None if len(distinct) == len(bank) else distinct
        self._searches: dict[tuple[str, bool], Search] = {}
        self(bank[:1])  # errors in the bank show here, and the first search takes no longer than the next

    def __call__(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return the k nearest rows of each query, nearest first, ties to the lowest row.

        Parameters
        ----------
        queries
            [Q, D], floating point, finite.
        k
            1 to M.

        Returns
        -------
        distance
            float64 [Q, k], in the units of the bank.
        row
            int64 [Q, k].

        Raises
        ------
        TensorError
            For values that are not finite.
        """
        backend = next(usable_backends(BACKENDS, self.bank, queries, k))
        distance, row = self._search(backend, k)(queries, k)
        unresolved = (row[:, 0] < 0).nonzero().flatten()
        if len(unresolved):
            distance[unresolved], row[unresolved] = self._search(BACKENDS[-1], k)(queries[unresolved], k)
        return distance, row if k > 1 or self._distinct is None else self._distinct[row]

    def _search(self, backend: Backend[[Tensor, int], tuple[Tensor, Tensor]], k: int) -> Search:
        """Return the prepared search of a backend; for k = 1 only the distinct rows are searched."""
        every = k > 1 or self._distinct is None
        if (backend.name, every) not in self._searches:
            rows = self.bank if every or self._distinct is None else self.bank[self._distinct]
            self._searches[backend.name, every] = backend.prepare(rows)
        return self._searches[backend.name, every]
