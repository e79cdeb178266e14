r"""Exact nearest rows by the compiled kernels: sketches, then codes, dismiss nearly all of the bank.

A sketch is a vector of 128 bytes whose distances never exceed those of the points. For a matrix A that lengthens no
vector, B = (I - A^T A)^(1/2) exists, and ||x||^2 = ||Ax||^2 + ||Bx||^2 for every x. Therefore

    ||x - y||^2 = ||A(x - y)||^2 + ||B(x - y)||^2  >=  ||Ax - Ay||^2 + (||Bx|| - ||By||)^2,

and f(x) = (Ax, ||Bx||) is a sketch. The rows of A are the leading principal directions of the bank; the last value
is the length of the rest. Sketches are rounded to a grid like points (`quantisation`), and the error of computing them
is added to that of rounding them:

- Ax is a float32 product: each of its S values has an error of at most gamma ||x||, all of them together
  eta = S^(1/2) gamma ||x||, with gamma = (D + 2) u / (1 - (D + 2) u) and u = 2^-24.
- r^2 = ||Bx||^2 = ||x||^2 - ||Ax||^2 then has an error of at most beta = eta (2 ||Ax|| + eta), and r of at most
  the smaller of beta^(1/2) and beta / r.

x is the difference to a common centre, rounded to float32; its rounding error, u ||x||, is in the + 2 of gamma.
Underflow in any of the D products adds at most 2^-125. If values overflow, the sketch is set to zero and its error to
infinity.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from patchcore_plugin.kernels import _native_calls
from patchcore_plugin.kernels._native import native
from patchcore_plugin.kernels.quantisation import FAR, ROUND_UP, TINY, Codes, Grid
from patchcore_plugin.kernels.screening import root

SAMPLE = 4096
"""Rows from which the principal directions are computed, at most."""
SLICES = 64, 256
"""Fewest and most queries that a thread searches at a time, in one pass over the bank."""


class NativeRows:
    """Search a bank for the rows nearest to queries with the compiled kernels.

    Parameters
    ----------
    bank
        [M, D] for which `_native_calls.usable` is true, finite, M at least 1.
    """

    def __init__(self, bank: Tensor) -> None:
        self._library = _native_calls.library()
        self._bank = bank = bank.float().contiguous()
        levels = self._library.patchcore_levels()
        self._grid = Grid(bank, levels)
        self._directions: Tensor | None = None
        self._sketch_grid: Grid | None = None
        with _native_calls.workers() as for_each_part:
            self._codes = sketches = _native_calls.encode(bank, self._grid, for_each_part)
            if bank.shape[1] > native().SKETCH:
                sample = bank[:: -(-len(bank) // SAMPLE)] - self._grid.centre.float()
                self._directions = _leading_directions(sample, native().SKETCH - 1)
                sketches = self._sketches(bank, for_each_part)
        panels = _native_calls.pack(sketches, torch.arange(len(bank)))
        self._panels = panels  # kept alive here: the struct below holds addresses only
        self._struct = native().Bank(
            rows=len(bank),
            dims=bank.shape[1],
            padded=self._codes.codes.shape[1],
            sketch=sketches.codes.shape[1],
            vectors=_native_calls.address(bank),
            codes=_native_calls.address(self._codes.codes),
            norms=_native_calls.address(self._codes.norms),
            errors=_native_calls.address(self._codes.errors),
            steps=1.0 / self._grid.step,
            panels=_native_calls.address(panels[0]),
            panel_norms=_native_calls.address(panels[1]),
            panel_errors=_native_calls.address(panels[2]),
            panel_steps=1.0 / (self._sketch_grid or self._grid).step,
        )

    def __call__(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return distance, float64 [Q, k], and row, int64 [Q, k].

        Row -1 marks a query for which codes leave too many rows about as near as the nearest.
        """
        queries = queries.float().contiguous()
        distance = torch.empty(len(queries), k, dtype=torch.float64)
        row = torch.empty(len(queries), k, dtype=torch.int64)
        budget = 256 + 8 * k + len(self._bank) // 64
        with _native_calls.workers() as for_each_part:
            codes = _native_calls.encode(queries, self._grid, for_each_part)
            sketches = codes if self._directions is None else self._sketches(queries, for_each_part)
            struct = native().Queries(
                _native_calls.address(queries),
                *_addresses(codes),
                *_addresses(sketches),
            )

            def part(low: int, high: int) -> None:
                self._library.patchcore_nearest(
                    ctypes.addressof(self._struct),
                    ctypes.addressof(struct),
                    low,
                    high,
                    k,
                    budget,
                    distance.data_ptr(),
                    row.data_ptr(),
                )

            low, high = SLICES
            for_each_part(part, len(queries), min(high, max(low, len(queries) // (4 * torch.get_num_threads()))))
        return root(distance), row

    def _sketches(self, points: Tensor, for_each_part: _native_calls.ForEachPart) -> Codes:
        """Return codes of the sketches of points; their errors include those of the sketches."""
        sketch, error = self.sketch(points, for_each_part)
        if self._sketch_grid is None:
            self._sketch_grid = Grid(sketch, self._library.patchcore_levels())
        codes = _native_calls.encode(sketch, self._sketch_grid, for_each_part)
        codes.errors.copy_((codes.errors + error / self._sketch_grid.step * ROUND_UP).clamp_(max=FAR))
        return codes

    def sketch(self, points: Tensor, for_each_part: _native_calls.ForEachPart) -> tuple[Tensor, Tensor]:
        """Return sketches of points, and bounds on their errors.

        Parameters
        ----------
        points
            float32 [n, D].
        for_each_part
            Runs a function on parts of the points in parallel.

        Returns
        -------
        tuple of Tensor
            Sketches, float32 [n, SKETCH], and bounds on their errors, float64 [n].
        """
        assert self._directions is not None
        directions = self._directions
        count, dims = points.shape
        width = native().SKETCH
        sketch, error = torch.empty(count, width), torch.empty(count, dtype=torch.float64)

        def part(low: int, high: int) -> None:
            self._library.patchcore_sketch(
                points.data_ptr() + 4 * low * dims,
                high - low,
                dims,
                self._grid.centre.data_ptr(),
                directions.data_ptr(),
                sketch.data_ptr() + 4 * low * width,
                error.data_ptr() + 8 * low,
            )

        for_each_part(part, count, 128)
        return sketch, error


def _addresses(codes: Codes) -> tuple[int, int, int]:
    return _native_calls.address(codes.codes), _native_calls.address(codes.norms), _native_calls.address(codes.errors)


def _leading_directions(sample: Tensor, count: int) -> Tensor:
    """Return the approximate leading principal directions of rows [n, D], as panels [(count + 1) / 16, D, 16].

    They form a matrix [count, D] of norm below 1, followed by a row of zeros.
    """
    dims = sample.shape[1]
    basis = torch.randn(dims, count, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        basis = torch.linalg.qr(sample.T @ (sample @ basis)).Q
    basis = torch.linalg.qr(basis.double()).Q.float()
    # Rounded columns are not quite orthonormal. Shortened by the defect, they lengthen no vector.
    gram = basis.double().T @ basis.double()
    excess = torch.linalg.matrix_norm(gram - torch.eye(count, dtype=torch.float64))
    directions = torch.zeros(dims, count + 1)
    directions[:, :count] = basis * (1 - float(excess) - TINY)
    return directions.view(dims, -1, native().LANES).permute(1, 0, 2).contiguous()
