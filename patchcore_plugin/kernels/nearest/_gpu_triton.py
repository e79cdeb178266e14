# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""The Triton kernels of the exact nearest-row search; `gpu` launches them and explains why they are exact.

All decisions are made in float64, with squares added in the order of `screening.squared_distances`. To get the same
bits, launch these kernels with ``enable_fp_fusion=False``: a fused multiply-add rounds once instead of twice.
"""

from __future__ import annotations

import triton
import triton.language as tl

WORD = tl.constexpr(32)
"""Rows whose marks share one integer."""


@triton.jit
def encode(
    points, centre, step, codes, norms, errors, count, LEVELS: tl.constexpr, DIMS: tl.constexpr,
    WIDTH: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write the codes, their squared norms and the squared errors of a block of points; see `quantisation`."""
    row = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    size = tl.load(step)
    norm = tl.zeros((BLOCK,), tl.int32)
    error = tl.zeros((BLOCK,), tl.float64)
    for low in range(0, WIDTH, STEP):
        dim = low + tl.arange(0, STEP)
        real = (row < count)[:, None] & (dim < DIMS)[None, :]
        value = tl.load(points + row[:, None] * DIMS + dim[None, :], mask=real, other=0.0).to(tl.float64)
        middle = tl.load(centre + dim, mask=dim < DIMS, other=0.0)
        scaled = tl.where(real, (value - middle[None, :]) / size, 0.0)
        code = tl.floor(tl.minimum(tl.maximum(scaled, -LEVELS), LEVELS) + 0.5)
        error += tl.sum((scaled - code) * (scaled - code), axis=1)
        whole = code.to(tl.int32)
        norm += tl.sum(whole * whole, axis=1)
        tl.store(codes + row[:, None] * WIDTH + dim[None, :], whole.to(tl.int8), mask=(row < count)[:, None])
    tl.store(norms + row, norm, mask=row < count)
    tl.store(errors + row, error, mask=row < count)


@triton.jit
def _products(queries, rows, query, row, WIDTH: tl.constexpr, STEP: tl.constexpr):
    """Return the inner products of a block of query codes and a block of row codes, exact."""
    dim = tl.arange(0, STEP)
    left = queries + query.to(tl.int64)[:, None] * WIDTH + dim[None, :]
    right = rows + row.to(tl.int64)[None, :] * WIDTH + dim[:, None]
    products = tl.zeros((query.shape[0], row.shape[0]), tl.int32)
    for low in range(0, WIDTH, STEP):
        products = tl.dot(tl.load(left + low), tl.load(right + low), products, out_dtype=tl.int32)
    return products


@triton.jit(do_not_specialize=["query_count", "row_count", "tiles"])
def find_witness(
    queries, rows, norms, witness, query_count, row_count, tiles, WIDTH: tl.constexpr, STEP: tl.constexpr,
    SHIFT: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """Find a row whose code is nearest, or nearly so, to each query within some tiles of rows.

    `witness` receives the smallest (shifted squared distance, row) as one integer. Within a tile the column replaces
    the lowest bits of the distance, so that one minimum finds both; if 32 bits are too few, the distance loses its
    lowest bits. Positions beyond the end repeat the last query or row.
    """
    query = tl.minimum(tl.program_id(0) * QUERIES + tl.arange(0, QUERIES), query_count - 1)
    column = tl.arange(0, ROWS)
    first = tl.program_id(1) * tiles * ROWS
    best = tl.full((QUERIES,), 2147483647, tl.int32)
    nearest = tl.zeros((QUERIES,), tl.int32)
    for low in range(first, tl.minimum(first + tiles * ROWS, row_count), ROWS):
        row = tl.minimum(low + column, row_count - 1)
        products = _products(queries, rows, query, row, WIDTH, STEP)
        far = (tl.load(norms + row) << SHIFT)[None, :] - (products << (SHIFT + 1))
        key = tl.min((far & -ROWS) | column[None, :], axis=1)
        nearer = key < best
        nearest = tl.where(nearer, tl.minimum(low + (key & (ROWS - 1)), row_count - 1), nearest)
        best = tl.where(nearer, key, best)
    tl.atomic_min(witness + query, (best.to(tl.int64) << 32) | nearest)


@triton.jit(do_not_specialize=["query_count", "row_count", "tiles", "words"])
def mark_near(
    queries, rows, query_norms, row_norms, reach, errors, marks, query_count, row_count, tiles, words,
    WIDTH: tl.constexpr, STEP: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """Set a bit for each row that may be within `reach` of a query; nothing is within a reach of NaN."""
    position = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    query = tl.minimum(position, query_count - 1)
    column = tl.arange(0, ROWS)
    first = tl.program_id(1) * tiles * ROWS
    norm, own = tl.load(query_norms + query), tl.load(reach + query)
    bit = tl.arange(0, WORD)
    place = tl.arange(0, ROWS // WORD)
    for low in range(first, tl.minimum(first + tiles * ROWS, row_count), ROWS):
        row = tl.minimum(low + column, row_count - 1)
        products = _products(queries, rows, query, row, WIDTH, STEP)
        distance = norm[:, None] + (tl.load(row_norms + row)[None, :] - 2 * products)
        span = own[:, None] + tl.load(errors + row)[None, :]
        near = (distance.to(tl.float32) <= span * span) & (low + column < row_count)[None, :]
        parts = tl.reshape(near.to(tl.int32), (QUERIES, ROWS // WORD, WORD))
        word = tl.sum(parts << bit[None, None, :], axis=2)
        target = marks + position.to(tl.int64)[:, None] * words + ((low + place * WORD) // WORD)[None, :]
        tl.store(target, word, mask=(position < query_count)[:, None])


@triton.jit
def _dims_in_order(order, DIMS: tl.constexpr, SIZE: tl.constexpr):
    """Return `order`, or the natural order, which loads faster, if both are the same."""
    dims = tl.arange(0, SIZE)
    if DIMS != SIZE:
        dims = tl.load(order + dims)
    return dims


@triton.jit
def _squared_distance(
    query_values, points, row, needed, order, DIMS: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr,
    HALVINGS: tl.constexpr
):  # fmt: skip
    """Return the squared distances of `query_values` [BLOCK, SIZE] and one row each, as `squared_distances` does.

    `order` places the dimensions so that halving SIZE terms adds the same pairs as halving DIMS terms.
    """
    real = needed[:, None] & (order >= 0)[None, :]
    row_values = tl.load(points + row.to(tl.int64)[:, None] * DIMS + order[None, :], mask=real, other=0.0)
    terms = query_values.to(tl.float64) - row_values.to(tl.float64)
    terms = terms * terms
    for halving in tl.static_range(HALVINGS):
        terms = tl.sum(tl.reshape(terms, (BLOCK, 2, SIZE >> (halving + 1))), axis=1)
    return tl.sum(terms, axis=1)  # of one term


@triton.jit(do_not_specialize=["query_count"])
def measure_witness(
    queries, points, witness, order, best, nearest, query_count, DIMS: tl.constexpr, BLOCK: tl.constexpr,
    SIZE: tl.constexpr, HALVINGS: tl.constexpr
):  # fmt: skip
    """Update `best` and `nearest` with the witness of each query."""
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    needed = query < query_count
    dims = _dims_in_order(order, DIMS, SIZE)
    real = needed[:, None] & (dims >= 0)[None, :]
    query_values = tl.load(queries + query.to(tl.int64)[:, None] * DIMS + dims[None, :], mask=real, other=0.0)
    row = (tl.load(witness + query, mask=needed, other=0) & 0xFFFFFFFF).to(tl.int32)
    distance = _squared_distance(query_values, points, row, needed, dims, DIMS, BLOCK, SIZE, HALVINGS)
    nearer = needed & (distance < tl.load(best + query, mask=needed))  # `measure_marked` settles ties
    tl.store(best + query, distance, mask=nearer)
    tl.store(nearest + query, row, mask=nearer)


@triton.jit(do_not_specialize=["query_count", "words"])
def measure_marked(
    queries, points, marks, order, best, nearest, query_count, words, DIMS: tl.constexpr, BLOCK: tl.constexpr,
    SIZE: tl.constexpr, HALVINGS: tl.constexpr, WORDS: tl.constexpr, MUTUAL: tl.constexpr
):  # fmt: skip
    """Compute the distances of each query to its marked rows, and store the first by (distance, row).

    If MUTUAL, store all of them in `best`, a matrix [rows, queries], instead; `nearest` is not used then.
    """
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = query < query_count
    dims = _dims_in_order(order, DIMS, SIZE)
    real = inside[:, None] & (dims >= 0)[None, :]
    query_values = tl.load(queries + query.to(tl.int64)[:, None] * DIMS + dims[None, :], mask=real, other=0.0)
    if not MUTUAL:
        old, known = tl.load(best + query, mask=inside), tl.load(nearest + query, mask=inside)
    lane = tl.arange(0, WORDS)
    for low in range(0, words, WORDS):
        some = inside[:, None] & (low + lane < words)[None, :]
        left = tl.load(marks + query.to(tl.int64)[:, None] * words + (low + lane)[None, :], mask=some, other=0)
        while tl.max(tl.max((left != 0).to(tl.int32), axis=1), axis=0) > 0:
            place = tl.min(tl.where(left != 0, lane[None, :], WORDS), axis=1)
            first_word = lane[None, :] == place[:, None]
            word = tl.sum(tl.where(first_word, left, 0), axis=1)
            lowest = word & -word
            left = tl.where(first_word, left ^ lowest[:, None], left)
            needed = place < WORDS
            power = tl.maximum(lowest.to(tl.int64) & 0xFFFFFFFF, 1).to(tl.float32)
            bit = tl.floor(tl.log2(power) + 0.5).to(tl.int32)  # exact, though the logarithm need not be
            row = tl.where(needed, (low + place) * WORD + bit, 0)
            distance = _squared_distance(query_values, points, row, needed, dims, DIMS, BLOCK, SIZE, HALVINGS)
            if MUTUAL:
                tl.store(best + row.to(tl.int64) * query_count + query, distance, mask=needed)
            else:
                nearer = needed & ((distance < old) | ((distance == old) & (row < known)))
                old = tl.where(nearer, distance, old)
                known = tl.where(nearer, row, known)
    if not MUTUAL:
        tl.store(best + query, old, mask=inside)
        tl.store(nearest + query, known, mask=inside)
