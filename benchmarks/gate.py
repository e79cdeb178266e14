"""Check that the speed-up of each fast kernel over its reference has not fallen below half of `baseline.json`.

``python -m benchmarks.gate`` takes seconds and exits with 1 if it has; ``--update`` writes the speed-ups of this
machine. A ratio of two times depends less on the machine than a time does. Taken from the shortest of several times,
measured in turns in one thread, it depends little on the load of the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._vectors import patch_features
from patchcore_plugin.kernels._native import SWITCH, native, unavailable
from patchcore_plugin.kernels.coreset import greedy_coreset
from patchcore_plugin.kernels.coreset.reference import greedy
from patchcore_plugin.kernels.embedding import adaptive_embedding
from patchcore_plugin.kernels.embedding.reference import unfold_embedding
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.kernels.nearest.reference import nearest_rows

ROOT = Path(__file__).parents[1]
BASELINE = Path(__file__).parent / "baseline.json"
MARGIN = 2.0
ROUNDS, RETRIES = 3, 2
REFERENCE = "reference"
SETS = ("compiled (portable)", "compiled (AVX2)", "compiled (AVX-512 VNNI)")
WAYS = ("torch", *SETS)
"""Other than the reference; "compiled" without a set is the best one of this processor."""
PAGES = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(2**28)}
"""Settings with which glibc holds on to freed memory, up to 32 MiB in one piece.

Without them, the time of a function that allocates much depends on whether the pages are new.
"""
ALONE = {**PAGES, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
Result = tuple[Tensor, ...]
Ready = Callable[[], Result]


@contextmanager
def using(way: str) -> Iterator[None]:
    """Compute in one of the `WAYS`, or with the best compiled kernels ("compiled")."""
    before, module = os.environ.get(SWITCH), None
    os.environ[SWITCH] = "1" if way.startswith("compiled") else "0"
    if way in SETS:
        module = native()
        best = module.library().patchcore_using()
        module.library().patchcore_use(SETS.index(way))
    try:
        yield
    finally:
        if module is not None:
            module.library().patchcore_use(best)
        os.environ.pop(SWITCH)
        if before is not None:
            os.environ[SWITCH] = before


def missing(way: str) -> str:
    """Return why a way is not possible on this machine; empty if it is."""
    if not way.startswith("compiled"):
        return ""
    with using("compiled"):
        module, reason = native(), unavailable()
    if module is None:
        return reason
    if way in SETS:
        with using(way):
            if module.library().patchcore_using() != SETS.index(way):
                return "the processor lacks the instructions"
    return ""


@dataclass(frozen=True)
class Case:
    """A kernel with one input.

    Attributes
    ----------
    kernel
        Its name.
    reference
        Return the result of the reference.
    fast
        Return a function that computes the result with the public function of the kernel, in the way in use.
    tolerance
        Largest difference between results.
    """

    kernel: str
    reference: Ready
    fast: Callable[[], Ready]
    tolerance: float = 0.0

    def ready(self, way: str) -> Ready:
        """Return the function that computes the result in the way in use."""
        return self.reference if way == REFERENCE else self.fast()

    def same(self, result: Result, expected: Result) -> bool:
        """Return whether two results are equal within the tolerance."""
        return all(torch.allclose(a, b, rtol=0, atol=self.tolerance) for a, b in zip(result, expected, strict=True))


def coreset_case(points: Tensor, count: int) -> Case:
    """Return the case that selects `count` of points [N, D]."""
    return Case("coreset", lambda: greedy(points, count, 0), lambda: lambda: greedy_coreset(points, count))


def nearest_case(queries: Tensor, bank: Tensor) -> Case:
    """Return the case that finds the nearest row of a prepared bank [M, D] for queries [Q, D]."""

    def fast() -> Ready:
        search = NearestRows(bank)
        return lambda: search(queries)

    return Case("nearest", lambda: nearest_rows(queries, bank), fast)


def embedding_case(maps: Sequence[Tensor], stride: int, dims: int) -> Case:
    """Return the case that embeds feature maps [B, C_i, H_i, W_i]."""
    return Case(
        "embedding",
        lambda: (unfold_embedding(maps, 3, stride, dims),),
        lambda: lambda: (adaptive_embedding(maps, 3, stride, dims, "bilinear"),),
        tolerance=1e-5 * max(float(features.abs().max()) for features in maps),
    )


def quick_case(kernel: str) -> Case:
    """Return a small case in which the fast ways are still many times faster."""
    if kernel == "coreset":
        return coreset_case(patch_features(8_000, 256), 300)
    if kernel == "nearest":
        vectors = patch_features(2_128, 256)
        return nearest_case(vectors[:128], vectors[128:])
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 512, 28, 28), (2, 1024, 14, 14))
    return embedding_case([torch.randn(*shape, generator=generator) for shape in shapes], 1, 1024)


KERNELS = (*(f"{kernel}, {way}" for kernel in ("coreset", "nearest") for way in WAYS), "embedding, torch")


def measure(names: Collection[str], replaced: Collection[str] = ()) -> dict[str, float]:
    """Return the speed-up of kernels over their references.

    Parameters
    ----------
    names
        From `KERNELS`, none of which is `missing`.
    replaced
        Kernels to replace by their reference, to test the gate.
    """
    ratios = {}
    for kernel in dict.fromkeys(name.partition(", ")[0] for name in names):
        case = quick_case(kernel)
        ways = [way for way in WAYS if f"{kernel}, {way}" in names]
        ready: dict[str, Ready] = {REFERENCE: case.reference}
        for way in ways:
            with using(way):
                ready[way] = case.reference if f"{kernel}, {way}" in replaced else case.fast()
        best = dict.fromkeys(ready, math.inf)
        results: dict[str, Result] = {}
        for _ in range(ROUNDS):
            for way, function in ready.items():
                with using(way):
                    seconds, results[way] = _shortest(function)
                best[way] = min(best[way], seconds)
        for way in ways:
            assert case.same(results[way], results[REFERENCE]), f"{kernel}, {way}: not the reference's result"
            ratios[f"{kernel}, {way}"] = best[REFERENCE] / best[way]
    return ratios


def _shortest(function: Ready) -> tuple[float, Result]:
    """Return the shortest time of some calls in seconds, and their result."""
    shortest, began = math.inf, time.perf_counter()
    while True:
        before = time.perf_counter()
        result = function()
        now = time.perf_counter()
        shortest = min(shortest, now - before)
        if now - began > 0.1:
            return shortest, result


def check(
    names: Collection[str], baseline: Mapping[str, float], measure: Callable[[Collection[str]], Mapping[str, float]]
) -> list[str]:
    """Return a message for each kernel that is too slow; slow kernels are measured up to three times."""
    ratios = dict(measure(names))
    for _ in range(RETRIES):
        slow = [name for name, ratio in ratios.items() if ratio * MARGIN < baseline.get(name, 0.0)]
        if slow:
            ratios.update({name: max(ratio, ratios[name]) for name, ratio in measure(slow).items()})
    lines = []
    for name, ratio in ratios.items():
        print(f"{name:<34}{ratio:8.1f} x as fast as its reference, baseline {baseline.get(name, math.nan):8.1f} x")
        if name not in baseline:
            lines.append(f"{name}: not in {BASELINE.name}; run python -m benchmarks.gate --update")
        elif ratio * MARGIN < baseline[name]:
            lines.append(
                f"{name}: {ratio:.1f} x as fast as its reference, baseline {baseline[name]:.1f} x; "
                "if this is intended, run python -m benchmarks.gate --update"
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gate in a new process with one thread."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the speed-ups of this machine to the baseline")
    parser.add_argument("--only", action="append", choices=KERNELS, help="check only this kernel; repeatable")
    parser.add_argument(
        "--replace",
        action="append",
        choices=KERNELS,
        default=[],
        help="replace this kernel by its reference, to test the gate",
    )
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.alone:
        command = [
            sys.executable,
            "-m",
            "benchmarks.gate",
            "--alone",
            *(sys.argv[1:] if arguments is None else arguments),
        ]
        return subprocess.run(command, cwd=ROOT, env={**os.environ, **ALONE}, check=False).returncode
    torch.set_num_threads(1)
    names = options.only or KERNELS
    for name, reason in [(name, missing(name.split(", ")[1])) for name in names]:
        if reason:
            print(f"{name:<34}skipped: {reason}")
            names = [other for other in names if other != name]
    baseline: dict[str, float] = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.is_file() else {}
    if options.update:
        # Figures of kernels that this machine lacks stay: another machine measured them.
        ratios = {name: ratio for name, ratio in baseline.items() if name in KERNELS}
        ratios |= {name: round(ratio, 1) for name, ratio in measure(names).items()}
        ordered = {name: ratios[name] for name in KERNELS if name in ratios}
        BASELINE.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
        print(BASELINE.read_text(encoding="utf-8"), end="")
        return 0
    lines = check(names, baseline, lambda slow: measure(slow, options.replace))
    print("\n".join(lines) or "No kernel has less than half the speed-up of its baseline.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
