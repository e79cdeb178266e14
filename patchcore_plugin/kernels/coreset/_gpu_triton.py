# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""The Triton kernel that ends a round of the greedy selection on a GPU; `gpu` launches it."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["players", "limit"])
def play_out(
    best, mutual, threshold, stop, ahead, picked, values, number, players, limit, BLOCK: tl.constexpr
):  # fmt: skip
    """Pick the farthest player repeatedly, the lowest of equals, while it comes before all points outside.

    One program does everything, so a pick costs one row of `mutual` and one reduction, without synchronisation.

    The largest value outside is `threshold`; the first `ahead` players at that value come before it. Values up to
    `stop` are not picked, and neither are earlier picks, which have negative values. At most `limit` picks are made.
    """
    player = tl.arange(0, BLOCK)
    inside = player < players
    now = tl.load(best + player, mask=inside, other=-1.0)
    outside, lowest, ties = tl.load(threshold), tl.load(stop), tl.load(ahead)
    count = 0
    value, first = tl.max(now, axis=0, return_indices=True, return_indices_tie_break_left=True)
    while (count < limit) & (value > lowest) & ((value > outside) | ((value == outside) & (first < ties))):
        tl.store(picked + count, first)
        tl.store(values + count, value)
        distance = tl.load(mutual + first.to(tl.int64) * players + player, mask=inside, other=0.0)
        now = tl.where(player == first, -1.0, tl.minimum(now, distance))
        count += 1
        value, first = tl.max(now, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(number, count)
