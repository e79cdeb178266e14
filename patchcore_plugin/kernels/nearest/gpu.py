r"""Exact nearest rows on a GPU: 8-bit products on the tensor cores screen, float64 decides.

Codes and error bounds are those of `quantisation`, so screening is integer arithmetic without rounding. For every
query:

1. `find_witness` reads all codes and keeps a row whose code is nearly the nearest. Any row is correct:
   its distance, which `measure_witness` computes in float64, is an upper bound of the smallest.
2. `mark_near` reads all codes again and sets a bit for each row whose lower bound is within that distance: about
   three of 16,000 in patch features. One bit per pair needs no counter and no list that could overflow, and the result
   does not depend on the order in which programs run.
3. `measure_marked` computes the distances of the marked rows in float64, in the order of `squared_distances`, and
   keeps the first by (distance, row).

Neither distances nor products are ever stored. Cost for Q queries, M rows and D values: 4 Q M D operations on 8-bit
integers, which tensor cores perform in the time of 2 Q M D on bfloat16 (one matrix product); Q M / 8 bytes of
marks, written and read once; about 4 Q rows read for float64; some ten launches and one synchronisation.

Queries far outside the bank and thousands of ties leave many rows marked, which costs time but not exactness.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from patchcore_plugin.kernels.quantisation import FAR, LEVELS, ROUND_UP, TINY, Grid
from patchcore_plugin.kernels.screening import not_finite, root

from . import _gpu_triton

TILES = {"QUERIES": 128, "ROWS": 256, "num_warps": 8, "num_stages": 3, "enable_fp_fusion": False}
"""Tiles and launch options of a screening pass; three stages of codes take 144 KiB of shared memory."""
SMALL_TILES = {**TILES, "ROWS": 128, "num_warps": 4, "num_stages": 2}
"""For GPUs with less than 160 KiB of shared memory."""
PROGRAMS = 2048
"""Programs of a screening pass, at most."""
TERMS = 1024
"""Terms that one program adds at a time, unless a row has more."""
MEASURED = 32
"""Queries that one program measures, at most."""
MARK_BYTES = 1 << 28
"""Bytes of marks in memory at a time."""


@dataclass(frozen=True)
class CodedPoints:
    """Points [n, D] as given, and their codes: int8 [n, W], norms int32 [n], error bounds float32 [n]."""

    points: Tensor
    codes: Tensor
    norms: Tensor
    errors: Tensor

    def __getitem__(self, rows: Tensor | slice) -> CodedPoints:
        return CodedPoints(self.points[rows], self.codes[rows], self.norms[rows], self.errors[rows])

    def __len__(self) -> int:
        return len(self.points)


class Search:
    """Launches of the kernels for points of one grid, with the arguments that all launches share.

    Parameters
    ----------
    points
        [n, D], floating point, finite. The grid suits these.
    """

    def __init__(self, points: Tensor) -> None:
        dims = points.shape[1]
        self._grid = Grid(points)
        self._step = torch.tensor([self._grid.step], dtype=torch.float64, device=points.device)
        self._order = halving_order(dims).to(points.device)
        block = 32 if dims <= 32 else 64 if dims <= 64 else 128
        self._codes = {"WIDTH": triton.cdiv(dims, block) * block, "STEP": block}
        size = len(self._order)
        # One warp per TERMS terms, so that few warps wait for each other.
        self._exact = {"DIMS": dims, "SIZE": size, "HALVINGS": size.bit_length() - 1}
        self._exact |= {"num_warps": min(8, max(1, size // TERMS)), "enable_fp_fusion": False}
        self._block = min(MEASURED, max(1, TERMS // size))
        self._tile = TILES
        if points.is_cuda:
            device = torch.cuda.get_device_properties(points.device)
            if getattr(device, "shared_memory_per_block_optin", 0) < 160 * 1024:
                self._tile = SMALL_TILES
        # Free high bits of a distance: shifted by as many, it has space for the column in its lowest bits.
        spare = 31 - (3 * dims * LEVELS**2).bit_length()
        self._shift = max(0, min(self._tile["ROWS"].bit_length() - 1, spare))

    def encode(self, points: Tensor) -> CodedPoints:
        """Return `points` [n, D] with their codes."""
        points = points.contiguous()
        count, device = len(points), points.device
        width = self._codes["WIDTH"]
        codes = torch.empty(count, width, dtype=torch.int8, device=device)
        norms = torch.empty(count, dtype=torch.int32, device=device)
        errors = torch.empty(count, dtype=torch.float64, device=device)
        _gpu_triton.encode[(triton.cdiv(count, 32),)](
            *(points, self._grid.centre, self._step, codes, norms, errors, count),
            LEVELS=float(LEVELS),
            DIMS=points.shape[1],
            BLOCK=32,
            enable_fp_fusion=False,
            **self._codes,
        )
        errors = errors.sqrt_().mul_(ROUND_UP).add_(TINY)
        if not errors.isfinite().all():
            raise not_finite()
        return CodedPoints(points, codes, norms, errors.clamp_(max=FAR).float())

    def compare(self, queries: CodedPoints, rows: CodedPoints, best: Tensor, nearest: Tensor) -> None:
        """Compare each query with all rows, and update its nearest row in place.

        Parameters
        ----------
        queries, rows
            [Q, D] and [M, D], at least one each.
        best
            float64 [Q], squared distances. Lowered if a row is nearer; a negative one never changes.
        nearest
            int64 [Q], the rows at these distances. Of rows at the same distance, the lowest is stored.
        """
        block = self._tile["QUERIES"]
        step = max(1, 8 * MARK_BYTES // len(rows) // block) * block
        for low in range(0, len(queries), step):
            part = slice(low, low + step)
            self._compare(queries[part], rows, best[part], nearest[part])

    def _compare(self, queries: CodedPoints, rows: CodedPoints, best: Tensor, nearest: Tensor) -> None:
        count = len(queries)
        witness = torch.full((count,), torch.iinfo(torch.int64).max, device=best.device)
        blocks, tiles = self._blocks(count, len(rows))
        _gpu_triton.find_witness[blocks](
            *(queries.codes, rows.codes, rows.norms, witness, count, len(rows), tiles),
            SHIFT=self._shift,
            **self._codes,
            **self._tile,
        )
        _gpu_triton.measure_witness[(triton.cdiv(count, self._block),)](
            *(queries.points, rows.points, witness, self._order, best, nearest, count),
            BLOCK=self._block,
            **self._exact,
        )
        marks = self._mark(queries, rows, best)
        self._measure(queries, rows, marks, best, nearest, mutual=False)

    def distances_below(self, points: CodedPoints, limit: Tensor) -> Tensor:
        """Return squared distances between points, float64 [n, n].

        In column j, values above ``limit[j]`` may be infinite instead.

        Parameters
        ----------
        points
            The points [n, D] and their codes.
        limit
            Largest squared distance of interest for each column, [n].
        """
        out = torch.full((len(points), len(points)), torch.inf, dtype=torch.float64, device=limit.device)
        self._measure(points, points, self._mark(points, points, limit), out, out, mutual=True)
        return out

    def _mark(self, queries: CodedPoints, rows: CodedPoints, limit: Tensor) -> Tensor:
        """Return bits [Q, words], int32, set for rows whose squared distance may be up to `limit`."""
        # The root of a negative limit is NaN, which compares with nothing. ROUND_UP also covers the rounding of the
        # comparison, because the errors of the rows are rounded up by the same factor.
        reach = (limit.sqrt() * (ROUND_UP / self._grid.step) + TINY).add_(queries.errors).clamp_(max=FAR).float()
        words = triton.cdiv(len(rows), self._tile["ROWS"]) * (self._tile["ROWS"] // 32)
        marks = torch.empty(len(queries), words, dtype=torch.int32, device=limit.device)
        blocks, tiles = self._blocks(len(queries), len(rows))
        _gpu_triton.mark_near[blocks](
            *(queries.codes, rows.codes, queries.norms, rows.norms, reach, rows.errors),
            *(marks, len(queries), len(rows), tiles, words),
            **self._codes,
            **self._tile,
        )
        return marks

    def _measure(
        self, queries: CodedPoints, rows: CodedPoints, marks: Tensor, best: Tensor, nearest: Tensor, *, mutual: bool
    ) -> None:
        words = marks.shape[1]
        _gpu_triton.measure_marked[(triton.cdiv(len(queries), self._block),)](
            *(queries.points, rows.points, marks, self._order, best, nearest, len(queries), words),
            BLOCK=self._block,
            WORDS=min(triton.next_power_of_2(words), max(1, 256 // self._block)),
            MUTUAL=mutual,
            **self._exact,
        )

    def _blocks(self, queries: int, rows: int) -> tuple[tuple[int, int], int]:
        """Return the grid of programs of a screening pass, and the number of tiles of rows for each."""
        blocks, tiles = triton.cdiv(queries, self._tile["QUERIES"]), triton.cdiv(rows, self._tile["ROWS"])
        share = max(1, blocks * tiles // PROGRAMS)
        return (blocks, triton.cdiv(tiles, share)), share


class GpuRows:
    """Search a bank for the nearest row of each query.

    Parameters
    ----------
    bank
        [M, D] on the GPU, floating point, finite, M at least 1, D up to `quantisation.MAX_DIMS`. Duplicate rows are
        correct but slow.
    """

    def __init__(self, bank: Tensor) -> None:
        with torch.cuda.device_of(bank):
            self._search = Search(bank)
            self._coded = self._search.encode(bank)

    def __call__(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distance, float64 [Q, 1], and row, int64 [Q, 1], of queries [Q, D] for k = 1; ties to the lowest row.

        Raises
        ------
        TensorError
            For values that are not finite.
        """
        assert k == 1
        best = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device)
        nearest = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        if len(queries):
            with torch.cuda.device_of(queries):
                self._search.compare(self._search.encode(queries), self._coded, best, nearest)
        return root(best)[:, None], nearest[:, None]


def halving_order(dims: int) -> Tensor:
    """Return the order in which halving a power of two repeatedly adds `dims` terms as `squared_distances` does.

    int32 [the next power of two]; -1 stands for a missing term. `squared_distances` adds term k + ceil(t / 2) of t to
    term k. Followed backwards, each halving appends the terms to be added to those that they are added to.
    """
    sizes = [dims]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    order = torch.zeros(1, dtype=torch.int32)
    for larger, smaller in zip(sizes[-2::-1], sizes[:0:-1], strict=True):
        exists = (order >= 0) & (order + smaller < larger)
        order = torch.cat([order, torch.where(exists, order + smaller, -1)])
    return order
