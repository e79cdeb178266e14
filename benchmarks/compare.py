"""Compare the fast kernels of the working tree with those of another commit, in turns on this machine.

``python -m benchmarks.compare REF`` takes about ten minutes, prints a table, and exits with 1 if a kernel of the
working tree is more than 10 % slower, both by the median of its times and by the shortest. The commit is checked out
into a temporary folder, and its native library is compiled there if the working tree uses one. Each measurement runs in
a new process, because memory layout alone can change a time by 10 %, and reads the same tensors from a file.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
SLOWER = 1.10
SECONDS = 1.0
"""Shortest total time that a process measures."""
CASES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "coreset, 20,000 x 128, 10 %": ("coreset", ("patch_features", 20_000, 128, 2_000)),
    "coreset, 20,000 x 1024, 1 %": ("coreset", ("patch_features", 20_000, 1024, 200)),
    "coreset, mostly copies, 20,000 x 128, 10 %": ("coreset", ("mostly_copies", 20_000, 128, 2_000)),
    "coreset, one far outlier, 20,000 x 128, 1 %": ("coreset", ("one_far_outlier", 20_000, 128, 200)),
    "nearest, 3,136 in 2,000 x 1024": ("nearest", ("patch_features", 3_136, 2_000, 1024)),
    "nearest, 3,136 in 16,000 x 1024": ("nearest", ("patch_features", 3_136, 16_000, 1024)),
    "nearest, mostly copies, 3,136 in 16,000 x 128": ("nearest", ("mostly_copies", 3_136, 16_000, 128)),
    "embedding, 8 images, 512 + 1,024 channels to 1,024": ("embedding", ()),
}
"""Kernel and input of each case: a function of `_features`, and sizes."""
IN_TORCH = ", torch"
"""Suffix of cases that run without the compiled kernels."""
Laps = list[float]


def make_input(case: str) -> list[Tensor]:
    """Return the input of a case."""
    from benchmarks import _features  # not at the top: a measuring process must not import from this tree

    kernel, sizes = CASES[case]
    if kernel == "embedding":
        generator = torch.Generator().manual_seed(0)
        maps = (torch.randn(8, channels, side, side, generator=generator) for channels, side in ((512, 28), (1024, 14)))
        return [features.contiguous(memory_format=torch.channels_last) for features in maps]
    kind, *numbers = sizes
    if kernel == "coreset":
        rows, dims, picks = numbers
        return [getattr(_features, kind)(rows, dims), torch.tensor(picks)]
    queries, rows, dims = numbers
    vectors = getattr(_features, kind)(queries + rows, dims)
    return [vectors[rows:].clone(), vectors[:rows].clone()]


def prepare(kernel: str, tensors: Sequence[Tensor]) -> Callable[[], object]:
    """Return the function to time; its imports resolve to the tree under measurement."""
    if kernel == "coreset":
        from patchcore_plugin.kernels.coreset import greedy_coreset

        return lambda: greedy_coreset(tensors[0], int(tensors[1]), 0)
    if kernel == "nearest":
        from patchcore_plugin.kernels.nearest import NearestRows

        search = NearestRows(tensors[1])
        return lambda: search(tensors[0])
    from patchcore_plugin.kernels.embedding import adaptive_embedding

    return lambda: adaptive_embedding(tensors, 3, 1, 1024, "bilinear")


def measure(tree: str, kernel: str, path: str) -> None:
    """Print times as JSON, none if the tree lacks the kernel; the process must have the tree on its path."""
    import patchcore_plugin

    assert Path(patchcore_plugin.__file__).is_relative_to(tree), f"{patchcore_plugin.__file__} is not in {tree}"
    laps: Laps = []
    try:
        function = prepare(kernel, torch.load(path, weights_only=True))
        function()
    except (ImportError, AttributeError, TypeError) as error:
        if Path(tree) == ROOT:
            raise
        print(f"{kernel}: {error}", file=sys.stderr)
    else:
        while sum(laps) < SECONDS:
            before = time.perf_counter()
            function()
            laps.append(time.perf_counter() - before)
    print(json.dumps(laps))


def laps_of(tree: Path, case: str, path: Path) -> Laps:
    """Return the times of one process; none if the tree lacks the kernel."""
    from benchmarks.gate import PAGES

    env = {name: value for name, value in os.environ.items() if name != "PATCHCORE_COMPILED"} | PAGES
    env["PYTHONPATH"] = os.pathsep.join([str(tree), str(tree / "native" / "src")])
    if case.endswith(IN_TORCH):
        env["PATCHCORE_COMPILED"] = "0"
    kernel = case.partition(",")[0]
    ended = subprocess.run(
        [sys.executable, __file__, "--measure", str(tree), kernel, str(path)],
        env=env,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches it through this process only, with one message
    )
    laps: Laps = json.loads(ended.stdout)
    return laps


@contextmanager
def temporary_checkout(ref: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder, compile its native library, and remove the folder."""
    from patchcore_plugin.kernels._native import native

    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "tree"
        try:
            _git("worktree", "add", "--quiet", "--detach", str(tree), ref)
            if native() is not None and (tree / "native" / "hatch_build.py").is_file():
                library = "src/patchcore_native/libpatchcore." + ("dylib" if sys.platform == "darwin" else "so")
                code = (
                    f"from pathlib import Path; import hatch_build as h; h.compile_library(Path({library!r}).resolve())"
                )
                subprocess.run([sys.executable, "-c", code], check=True, cwd=tree / "native")
            yield tree
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave the folder behind
            if tree.exists():
                _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> str:
    ended = subprocess.run(["git", "-C", str(ROOT), *arguments], check=False, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {ended.stderr.strip()}")
    return ended.stdout.strip()


def ratios(then: Laps, now: Laps) -> tuple[float, float]:
    """Return new time over old time, by the median and by the shortest time."""
    return statistics.median(now) / statistics.median(then), min(now) / min(then)


def is_slower(then: Laps, now: Laps) -> bool:
    """Return whether a case is too slow."""
    return bool(then and now) and min(ratios(then, now)) > SLOWER


def in_turn(trees: Mapping[str, Path], case: str, path: Path, rounds: int) -> dict[str, Laps]:
    """Measure a case in both trees, alternating which is first; repeat as many rounds if the case is too slow."""
    laps: dict[str, Laps] = {name: [] for name in trees}
    for number in range(2 * rounds):
        if number >= rounds and not is_slower(**laps):
            break
        for name in sorted(trees, reverse=bool(number % 2)):
            laps[name] += laps_of(trees[name], case, path)
    return laps


def row(case: str, ref: str, laps: Mapping[str, Laps]) -> str:
    """Return one line of the table."""
    then, now = laps["then"], laps["now"]
    if not then:
        return f"{case:<58}not in {ref}"
    median, shortest = ratios(then, now)
    times = f"{statistics.median(then):10.4f}{statistics.median(now):10.4f}{median:8.2f}{shortest:10.2f}"
    return f"{case:<58}{times}{'  SLOWER' if is_slower(then, now) else ''}"


def main() -> int:
    """Compare the working tree with a commit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("ref", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="processes per tree and case [default: 5]")
    parser.add_argument("--case", default="", help="run only cases whose name contains this text")
    options = parser.parse_args()
    commit = _git("rev-parse", "--verify", f"{options.ref}^{{commit}}")
    cases = [case for case in CASES if options.case in case]
    cases += [case + IN_TORCH for case in CASES if not case.startswith("embedding") and options.case in case + IN_TORCH]
    slower = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with temporary_checkout(commit) as tree, tempfile.TemporaryDirectory() as folder:
            print(f"{'seconds':<58}{options.ref[:9]:>10}{'new':>10}{'ratio':>8}{'shortest':>10}", flush=True)
            for case in cases:
                path = Path(folder) / "input.pt"
                torch.save(make_input(case.removesuffix(IN_TORCH)), path)
                laps = in_turn({"then": tree, "now": ROOT}, case, path, options.rounds)
                print(row(case, options.ref, laps), flush=True)
                if is_slower(**laps):
                    slower.append(case)
    except KeyboardInterrupt:
        print("Interrupted.")
        return 130
    print(
        "\n".join(f"{case}: more than 10 % slower than at {options.ref}" for case in slower) or "No kernel is slower."
    )
    return 1 if slower else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        sys.exit(main())
