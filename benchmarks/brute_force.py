"""The whole selection beside brute force in float64, at full size: `python -m benchmarks.brute_force`.

Every pick compares all rows with the one before, without bounds or screening: distances one by one, as
`squared_distances` defines them (compiled where that is here; the first picks are checked with torch), and the
largest, ties to the lowest row. It takes minutes, so it is run by hand, and what it found is kept.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from torch import Tensor

from benchmarks import _features as made
from benchmarks._measure import RESULTS, environment
from patchcore_plugin.kernels import compiled
from patchcore_plugin.kernels.coreset import greedy_coreset
from patchcore_plugin.kernels.coreset.lazy import LazyGreedy
from patchcore_plugin.kernels.coreset.reference import greedy

CHECKED = 20
"""Picks that the reference makes as well."""


def brute_force(points: Tensor, count: int, start: int) -> Tensor:
    """Return the picks of the textbook loop."""
    index = torch.empty(count, dtype=torch.int64)
    nearest = np.full(len(points), np.inf)
    distance = torch.empty(len(points), dtype=torch.float64)
    pick, dims = start, points.shape[1]
    with compiled.workers() as each:
        for k in range(count):
            index[k] = pick
            other = points[pick].data_ptr()

            def part(low: int, high: int) -> None:
                compiled.library().patchcore_distances(
                    points.data_ptr() + 4 * low * dims,
                    other,  # noqa: B023
                    high - low,
                    dims,
                    distance.data_ptr() + 8 * low,
                )

            each(part, len(points), 1 << 14)
            np.minimum(nearest, distance.numpy(), out=nearest)
            nearest[pick] = -1.0
            pick = int(nearest.argmax())
    return index


def main() -> None:
    """Compare, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=160_720)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--percent", type=int, default=10)
    options = parser.parse_args()
    points = made.patch_vectors(options.dims)[: options.rows].contiguous()
    count = options.rows * options.percent // 100
    start = time.perf_counter()
    wanted = brute_force(points, count, 7)
    seconds = time.perf_counter() - start
    assert torch.equal(greedy(points, CHECKED, 7)[0], wanted[:CHECKED])
    ways = {"dispatcher": greedy_coreset(points, count, 7)[0], "torch": LazyGreedy(points, count, 7).run()[0]}
    result = {
        "environment": environment(),
        "case": f"{options.rows:,} x {options.dims}, {options.percent} %",
        "picks": count,
        "brute_force_s": round(seconds, 1),
        "equal": {name: bool(torch.equal(index, wanted)) for name, index in ways.items()},
    }
    (RESULTS / "brute_force.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    if not all(result["equal"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
