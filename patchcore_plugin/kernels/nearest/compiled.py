r"""Exact nearest rows, compiled: sketches of 128 bytes dismiss nearly all of the bank, whole codes most of the rest.

A sketch is a short vector whose distances never exceed those of the points. For a matrix A that lengthens no vector,
B = (I - A^T A)^(1/2) exists, and ||x||^2 = ||Ax||^2 + ||Bx||^2 for every x. So

    ||x - y||^2 = ||A(x - y)||^2 + ||B(x - y)||^2  >=  ||Ax - Ay||^2 + (||Bx|| - ||By||)^2,

and f(x) = (Ax, ||Bx||) is a sketch: A has the leading principal directions of the bank in its rows, and the
last value is what they leave out. Sketches are rounded to a grid as points are (`quantised`), and the error of
computing them is added to that of rounding them:

- Ax is a float32 product: each of its S values is wrong by at most gamma ||x||, all of them by
  eta = S^(1/2) gamma ||x||, with gamma = (D + 2) u / (1 - (D + 2) u) and u = 2^-24.
- r^2 = ||Bx||^2 = ||x||^2 - ||Ax||^2 is then wrong by at most beta = eta (2 ||Ax|| + eta), so r is by at most
  the smaller of beta^(1/2) and beta / r.

x is the difference to a common centre, rounded to float32; its rounding error, u ||x||, is in the + 2 of gamma.
Underflow in any of the D products adds 2^-125 at most; where values overflow, the sketch is set to zero
and its error to infinity.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from patchcore_plugin.kernels import compiled
from patchcore_plugin.kernels.native import native
from patchcore_plugin.kernels.quantised import FAR, ROUND_UP, TINY, Codes, Grid
from patchcore_plugin.kernels.screening import root

SAMPLE = 4096
"""Rows that the principal directions are found from."""
SLICES = 64, 256
"""Queries that a thread searches at a time: many go through the bank at once, but all threads need some."""


class CompiledRows:
    """A bank made ready to be searched by the compiled kernels.

    Parameters
    ----------
    bank
        [M, D] that `compiled.serves`, finite, M at least 1.
    """

    def __init__(self, bank: Tensor) -> None:
        self._library = compiled.library()
        self._bank = bank = bank.float().contiguous()
        levels = self._library.patchcore_levels()
        self._grid = Grid(bank, levels)
        self._directions: Tensor | None = None
        self._sketch_grid: Grid | None = None
        with compiled.workers() as each:
            self._codes = sketches = compiled.encode(bank, self._grid, each)
            if bank.shape[1] > native().SKETCH:
                sample = bank[:: -(-len(bank) // SAMPLE)] - self._grid.centre.float()
                self._directions = _leading_directions(sample, native().SKETCH - 1)
                sketches = self._sketches(bank, each)
        panels = compiled.pack(sketches, torch.arange(len(bank)))
        self._keep = [self._codes, *panels]  # the struct below holds addresses only
        self._struct = native().Bank(
            rows=len(bank),
            dims=bank.shape[1],
            padded=self._codes.codes.shape[1],
            sketch=sketches.codes.shape[1],
            vectors=compiled.address(bank),
            codes=compiled.address(self._codes.codes),
            norms=compiled.address(self._codes.norms),
            errors=compiled.address(self._codes.errors),
            steps=1.0 / self._grid.step,
            panels=compiled.address(panels[0]),
            panel_norms=compiled.address(panels[1]),
            panel_errors=compiled.address(panels[2]),
            panel_steps=1.0 / (self._sketch_grid or self._grid).step,
        )

    def __call__(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return distance, float64 [Q, k], and row, int64 [Q, k]; row -1 where a search was given up.

        A query is given up where so many rows are about as near as the nearest that codes cannot tell them apart.
        """
        queries = queries.float().contiguous()
        distance = torch.empty(len(queries), k, dtype=torch.float64)
        row = torch.empty(len(queries), k, dtype=torch.int64)
        budget = 256 + 8 * k + len(self._bank) // 64
        with compiled.workers() as each:
            codes = compiled.encode(queries, self._grid, each)
            sketches = codes if self._directions is None else self._sketches(queries, each)
            struct = native().Queries(
                compiled.address(queries),
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
            each(part, len(queries), min(high, max(low, len(queries) // (4 * torch.get_num_threads()))))
        return root(distance), row

    def _sketches(self, points: Tensor, each: compiled.Each) -> Codes:
        """Return codes of the sketches of points, whose errors include those of the sketches."""
        sketch, wrong = self.sketch(points, each)
        if self._sketch_grid is None:
            self._sketch_grid = Grid(sketch, self._library.patchcore_levels())
        codes = compiled.encode(sketch, self._sketch_grid, each)
        codes.errors.copy_((codes.errors + wrong / self._sketch_grid.step * ROUND_UP).clamp_(max=FAR))
        return codes

    def sketch(self, points: Tensor, each: compiled.Each) -> tuple[Tensor, Tensor]:
        """Return sketches, float32 [n, SKETCH], and bounds of their errors, float64 [n]."""
        assert self._directions is not None
        directions = self._directions
        count, dims = points.shape
        width = native().SKETCH
        sketch, wrong = torch.empty(count, width), torch.empty(count, dtype=torch.float64)

        def part(low: int, high: int) -> None:
            self._library.patchcore_sketch(
                points.data_ptr() + 4 * low * dims,
                high - low,
                dims,
                self._grid.centre.data_ptr(),
                directions.data_ptr(),
                sketch.data_ptr() + 4 * low * width,
                wrong.data_ptr() + 8 * low,
            )

        each(part, count, 128)
        return sketch, wrong


def _addresses(codes: Codes) -> tuple[int, int, int]:
    return compiled.address(codes.codes), compiled.address(codes.norms), compiled.address(codes.errors)


def _leading_directions(sample: Tensor, count: int) -> Tensor:
    """Return about the leading principal directions of rows [n, D] as panels [(count + 1) / 16, D, 16].

    They are a matrix [count, D] of norm below 1, and a row of zeros.
    """
    dims = sample.shape[1]
    basis = torch.randn(dims, count, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        basis = torch.linalg.qr(sample.T @ (sample @ basis)).Q
    basis = torch.linalg.qr(basis.double()).Q.float()
    # Rounded, the columns are no longer quite orthonormal; made shorter by what they miss it by, they lengthen nothing.
    gram = basis.double().T @ basis.double()
    excess = torch.linalg.matrix_norm(gram - torch.eye(count, dtype=torch.float64))
    directions = torch.zeros(dims, count + 1)
    directions[:, :count] = basis * (1 - float(excess) - TINY)
    return directions.view(dims, -1, native().LANES).permute(1, 0, 2).contiguous()
