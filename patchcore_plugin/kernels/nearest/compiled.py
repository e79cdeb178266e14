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
Underflow in any of the D products adds `SMALLEST` to each value; where values overflow, the sketch is set to zero
and its error to infinity.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from patchcore_plugin.kernels import compiled
from patchcore_plugin.kernels.native import native
from patchcore_plugin.kernels.quantised import FAR, ROUND_UP, TINY, Codes, Grid
from patchcore_plugin.kernels.screening import UNIT_ROUNDOFF, root

SKETCH = 128
SAMPLE = 4096
"""Rows that the principal directions are found from."""
MAX_K = 64
SMALLEST = 2.0**-125
"""What an underflow can cost, whether or not the processor keeps denormal numbers."""
SLICE = 64
"""Queries that a thread searches at a time."""


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
        self._projection: Tensor | None = None
        with compiled.workers() as each:
            self._codes = compiled.encode(bank, self._grid, each)
            self._sketch_grid = self._grid
            sketches = self._codes
            if bank.shape[1] > SKETCH:
                self._projection = _leading_directions(bank[:: -(-len(bank) // SAMPLE)] - self._grid.centre.float())
                sketch, wrong = self._sketch(bank)
                self._sketch_grid = Grid(sketch, levels)
                sketches = compiled.encode(sketch, self._sketch_grid, each)
                sketches.errors.add_(wrong / self._sketch_grid.step).clamp_(max=FAR)
        panels = compiled.pack(sketches, torch.arange(len(bank)))
        self._keep = [self._codes, *panels]
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
            panel_steps=1.0 / self._sketch_grid.step,
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
            sketches = codes
            if self._projection is not None:
                sketch, wrong = self._sketch(queries)
                sketches = compiled.encode(sketch, self._sketch_grid, each)
                sketches.errors.add_(wrong / self._sketch_grid.step).clamp_(max=FAR)
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

            each(part, len(queries), SLICE)
        return root(distance), row

    def _sketch(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return sketches, float32 [n, SKETCH], and bounds of their errors, float32 [n]."""
        assert self._projection is not None
        sketch = torch.empty(len(points), SKETCH)
        wrong = torch.empty(len(points))
        terms = (points.shape[1] + 2) * UNIT_ROUNDOFF
        gamma = terms / (1 - terms)
        centre = self._grid.centre.float()
        for low in range(0, len(points), 512):
            part = slice(low, low + 512)
            centred = points[part] - centre
            leading = centred @ self._projection.T
            length = centred.double().square().sum(dim=1)
            along = leading.double().square().sum(dim=1)
            rest = (length - along).clamp_(min=0.0).sqrt_()
            eta = SKETCH**0.5 * (gamma * length.sqrt() + points.shape[1] * SMALLEST)
            beta = eta * (2 * along.sqrt() + eta)
            sketch[part, :-1], sketch[part, -1] = leading, rest
            wrong[part] = (eta + torch.minimum(beta.sqrt(), beta / rest) + rest * UNIT_ROUNDOFF) * ROUND_UP
            overflown = ~sketch[part].isfinite().all(dim=1)
            sketch[part].masked_fill_(overflown[:, None], 0.0)
            wrong[part].masked_fill_(overflown, torch.inf)
        return sketch, wrong


def _addresses(codes: Codes) -> tuple[int, int, int]:
    return compiled.address(codes.codes), compiled.address(codes.norms), compiled.address(codes.errors)


def _leading_directions(sample: Tensor) -> Tensor:
    """Return about the leading principal directions of rows [n, D] as a matrix [SKETCH - 1, D] of norm below 1."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(sample.shape[1], SKETCH - 1, generator=generator)
    for _ in range(2):
        basis = torch.linalg.qr(sample.T @ (sample @ basis)).Q
    basis = torch.linalg.qr(basis.double()).Q.float()
    # Rounded, the columns are no longer quite orthonormal; divided by the norm of what they are, they lengthen nothing.
    gram = basis.double().T @ basis.double()
    excess = torch.linalg.matrix_norm(gram - torch.eye(SKETCH - 1, dtype=torch.float64))
    directions: Tensor = basis.T * (1 - float(excess) - TINY)
    return directions.contiguous()
