"""Compare a selection at full size with brute force in float64: `python -m benchmarks.brute_force`.

Brute force computes the distances of all rows to every pick, as defined by `squared_distances`, without bounds or
screening, and picks the farthest row, ties to the lowest. It uses the compiled distances; the reference checks the
first picks. It takes minutes, so it is run by hand; `results/brute_force.json` holds the result.
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
from patchcore_plugin.kernels import _native_calls
from patchcore_plugin.kernels.coreset import greedy_coreset
from patchcore_plugin.kernels.coreset.lazy import LazyGreedy
from patchcore_plugin.kernels.coreset.reference import greedy
from patchcore_plugin.kernels.coreset.task import Task

CHECKED = 20
"""Number of picks that the reference checks."""


def brute_force(points: Tensor, count: int, start: int) -> Tensor:
    """Return the picks of the textbook loop."""
    index = torch.empty(count, dtype=torch.int64)
    nearest = np.full(len(points), np.inf)
    distance = torch.empty(len(points), dtype=torch.float64)
    pick, dims = start, points.shape[1]
    with _native_calls.workers() as for_each_part:
        for k in range(count):
            index[k] = pick
            address = points[pick].data_ptr()

            def part(low: int, high: int) -> None:
                _native_calls.library().patchcore_distances(
                    points.data_ptr() + 4 * low * dims,
                    address,  # noqa: B023
                    high - low,
                    dims,
                    distance.data_ptr() + 8 * low,
                )

            for_each_part(part, len(points), 1 << 14)
            np.minimum(nearest, distance.numpy(), out=nearest)
            nearest[pick] = -1.0
            pick = int(nearest.argmax())
    return index


def main() -> None:
    """Compare, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=160_720)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--percent", type=int, default=10)
    options = parser.parse_args()
    points = made.patch_vectors(options.dims)[: options.rows].contiguous()
    count = options.rows * options.percent // 100
    start = time.perf_counter()
    expected = brute_force(points, count, 7)
    seconds = time.perf_counter() - start
    assert torch.equal(greedy(points, CHECKED, 7)[0], expected[:CHECKED])
    ways = {"dispatcher": greedy_coreset(points, count, 7)[0], "torch": LazyGreedy(points, Task(count, 7)).run()[0]}
    result = {
        "environment": environment(),
        "case": f"{options.rows:,} x {options.dims}, {options.percent} %",
        "picks": count,
        "brute_force_s": round(seconds, 1),
        "equal": {name: bool(torch.equal(index, expected)) for name, index in ways.items()},
    }
    (RESULTS / "brute_force.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    if not all(result["equal"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
