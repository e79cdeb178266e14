"""Check that the Triton kernels are exact on a GPU, then time them.

``python -m benchmarks.gpu`` prints a table and writes `results/gpu.json`. It needs torch with CUDA, Triton, NumPy and
psutil; this repository need not be installed. Predictions are timed only if all requirements of the package are
installed. With ``--tiles`` it times several tile shapes of the screening passes instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from benchmarks._measure import RESULTS, _others_seconds, four_digits
from benchmarks._vectors import patch_features

ROOT = Path(__file__).parents[1]
QUERIES, ROWS = 25_088, 16_072
POINTS, COUNT = 164_000, 16_400
LOOP_PICKS = 500
IMAGES = 1024
Row = dict[str, Any]
Precision = Literal["fp32", "bf16"]


def import_kernels() -> None:
    """Make the kernels importable if requirements of the package, such as pluggy, are not installed."""
    if importlib.util.find_spec("pluggy") is None:
        package = ModuleType("patchcore_plugin")
        package.__path__ = [str(ROOT / "patchcore_plugin")]
        sys.modules["patchcore_plugin"] = package


def laps(function: Callable[[], object], rounds: int) -> list[float]:
    """Return the seconds of some calls, after one that compiles and is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def compare(
    functions: Mapping[str, Callable[[], object]], rounds: int, scales: Mapping[str, float], notes: list[str]
) -> Row:
    """Time functions, ours first, and return a row like that of `_measure.in_turn`; `scales` extrapolate times."""
    times, memory = {}, {}
    others, start = _others_seconds(), time.perf_counter()
    for name, function in functions.items():
        function()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        scale = scales.get(name, 1.0)
        times[name] = [lap * scale for lap in laps(function, rounds)]
        memory[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    ours, *peers = times
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    return {
        "ours_s": four_digits(middle[ours]),
        "peers_s": {name: four_digits(middle[name]) for name in peers},
        "ratio_range": {
            name: [four_digits(min(times[name]) / max(times[ours])), four_digits(max(times[name]) / min(times[ours]))]
            for name in peers
        },
        "peak_mib": {name: round(mib) for name, mib in memory.items()},
        "rounds": rounds,
        "rounds_left_out": 0,
        "cores_taken_by_others": four_digits((_others_seconds() - others) / (time.perf_counter() - start)),
        "notes": [*notes, ", ".join(f"{name} allocates {mib:.0f} MiB" for name, mib in memory.items())],
        "commit": commit(),
    }


def commit() -> str:
    """Return the commit of the working tree, with "-dirty" if files differ; "unknown" outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def environment() -> Row:
    device = torch.cuda.get_device_properties(0)
    import numpy
    import triton

    return {
        "processor": device.name,
        "instructions": f"CUDA {torch.version.cuda}, capability {device.major}.{device.minor}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "numpy": numpy.__version__},
    }


def check(points: int = 20_000, queries: int = 2_000, rows: int = 16_000) -> None:
    """Raise AssertionError unless the kernels return the results of the CPU."""
    from patchcore_plugin.kernels.coreset import gpu
    from patchcore_plugin.kernels.coreset.lazy import LazyGreedy
    from patchcore_plugin.kernels.coreset.task import Task
    from patchcore_plugin.kernels.nearest.gpu import GpuRows
    from patchcore_plugin.kernels.nearest.reference import nearest_rows

    features = patch_features(points, 128)
    index, radii = gpu.greedy(features.cuda(), Task(points // 10))
    expected, expected_radii = LazyGreedy(features, Task(points // 10)).run()
    assert torch.equal(index.cpu(), expected), "coreset: the selection differs from that of the CPU"
    assert torch.equal(radii, expected_radii), "coreset: the radii differ from those of the CPU"

    vectors = patch_features(queries + rows, 1024)
    bank, sample = vectors[queries:], slice(0, queries, 20)
    distance, row = GpuRows(bank.cuda())(vectors[:queries].cuda())
    expected_row = nearest_rows(vectors[sample], bank)[1]
    expected_distance = nearest_rows(vectors[sample].cuda(), bank.cuda())[0]  # roots can differ between devices
    assert torch.equal(row[sample].cpu(), expected_row), "nearest: a row differs from brute force"
    assert torch.equal(distance[sample], expected_distance), "nearest: a distance differs from brute force"
    print(f"exact: coreset {points:,} x 128, nearest {queries:,} x {rows:,} x 1024", flush=True)


def plain_loop(points: Tensor, count: int) -> Tensor:
    """Select like most programs: in float32, one pass over all points per pick, without synchronisation."""
    nearest = torch.full((len(points),), torch.inf, device=points.device)
    picks = [torch.zeros((), dtype=torch.int64, device=points.device)]
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (points - points[picks[-1]]).square_().sum(dim=1))
        picks.append(nearest.argmax())
    return torch.stack(picks)


def coreset(dims: int, *, whole: bool) -> Row:
    from patchcore_plugin.kernels.coreset import gpu
    from patchcore_plugin.kernels.coreset.lazy import LazyGreedy
    from patchcore_plugin.kernels.coreset.task import Task

    features = patch_features(POINTS, dims)
    points = features.cuda()
    rounds = 0

    def count_round(picks: int, count: int) -> None:
        nonlocal rounds
        rounds += 1

    index, _ = gpu.greedy(points, Task(COUNT, progress=count_round))
    notes = [f"{rounds} rounds of picks"]
    if whole:
        start = time.perf_counter()
        expected, _ = LazyGreedy(features, Task(COUNT)).run()
        notes.append(f"{int((index.cpu() != expected).sum())} of {COUNT} picks differ from those of torch on the CPU")
        print(f"  torch on the CPU: {time.perf_counter() - start:.1f} s", flush=True)
    notes.append(f"loop extrapolated from {LOOP_PICKS} picks")
    functions = {
        "ours": lambda: gpu.greedy(points, Task(COUNT)),
        "loop, float32": lambda: plain_loop(points, LOOP_PICKS),
    }
    return compare(functions, 5, {"loop, float32": COUNT / LOOP_PICKS}, notes)


def nearest() -> Row:
    from patchcore_plugin.kernels.nearest.float32 import Float32Rows
    from patchcore_plugin.kernels.nearest.gpu import GpuRows

    vectors = patch_features(QUERIES + ROWS, 1024).cuda()
    queries, bank = vectors[:QUERIES], vectors[QUERIES:]
    search, plain = GpuRows(bank), Float32Rows(bank)
    low_queries, low_bank = queries.bfloat16(), bank.bfloat16()
    product = low_queries.new_empty(QUERIES, ROWS)
    differ = int((search(queries)[1] != plain(queries)[1]).sum())
    functions = {
        "ours": lambda: search(queries),
        "bare bfloat16 product": lambda: torch.mm(low_queries, low_bank.T, out=product),
        "cdist and min": lambda: torch.cdist(queries, bank).min(dim=1),
        "torch, exact": lambda: plain(queries),
    }
    return compare(functions, 20, {}, [f"{differ} rows differ from those of exact torch"])


def predictions(precision: Precision) -> Row | None:
    """Time predictions; return None if a required package is not installed."""
    try:
        from benchmarks._end_to_end import predictions_and_backbone
    except ImportError as error:
        print(f"  skipped: {error}", flush=True)
        return None
    with tempfile.TemporaryDirectory() as folder:
        ours, alone = predictions_and_backbone(Path(folder), IMAGES, device="cuda", precision=precision)
        row = compare({"ours": ours, "backbone alone": alone}, 5, {}, [])
    share = row["peers_s"]["backbone alone"] / row["ours_s"]
    row["notes"].append(f"{IMAGES / row['ours_s']:.0f} images/s, {share:.0%} of the rate of the backbone alone")
    return row


def tiles() -> None:
    """Print the time of the search with other tiles."""
    from patchcore_plugin.kernels.nearest import gpu

    vectors = patch_features(QUERIES + ROWS, 1024).cuda()
    for queries, rows, warps, stages in (
        *((128, 256, 8, 3), (128, 256, 8, 4), (256, 128, 8, 3), (128, 128, 4, 3), (128, 128, 8, 3)),
        *((128, 128, 4, 4), (64, 256, 4, 3), (256, 128, 8, 4)),
    ):
        gpu.TILES = {**gpu.TILES, "QUERIES": queries, "ROWS": rows, "num_warps": warps, "num_stages": stages}
        search = gpu.GpuRows(vectors[QUERIES:])
        coded = search._search.encode(vectors[:QUERIES])
        limit = vectors.new_zeros(QUERIES, dtype=torch.float64)
        seconds = statistics.median(laps(lambda: search(vectors[:QUERIES]), 10))  # noqa: B023
        mark = statistics.median(laps(lambda: search._search._mark(coded, search._coded, limit), 10))  # noqa: B023
        print(
            f"{queries} x {rows}, {warps} warps, {stages} stages: {seconds * 1e3:.2f} ms, one pass {mark * 1e3:.2f} ms"
        )


def table(rows: Mapping[str, Row]) -> str:
    lines = [f"{'case':34} {'compared with':24} {'ms':>10} {'theirs / ours':>14} {'peak MiB':>9}"]
    for case, row in rows.items():
        lines.append(f"{case:34} {'ours':24} {row['ours_s'] * 1e3:10.2f} {'':14} {row['peak_mib']['ours']:9}")
        for peer, seconds in row["peers_s"].items():
            ratio = seconds / row["ours_s"]
            lines.append(f"{'':34} {peer:24} {seconds * 1e3:10.2f} {ratio:14.2f} {row['peak_mib'][peer]:9}")
        lines.append(f"{'':34} {'; '.join(row['notes'])}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tiles", action="store_true", help="time several tile shapes instead")
    parser.add_argument("--no-whole-check", action="store_true", help="do not check the large coresets on the CPU")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: torch finds no GPU")
    if importlib.util.find_spec("triton") is None:
        sys.exit("benchmarks.gpu: Triton is not installed")
    import_kernels()
    check()
    if arguments.tiles:
        tiles()
        return
    cases: dict[str, Callable[[], Row | None]] = {f"nearest, {QUERIES:,} x {ROWS:,} x 1024": nearest}
    for dims in (128, 1024):
        cases[f"coreset, {POINTS:,} x {dims}, 10 %"] = partial(coreset, dims, whole=not arguments.no_whole_check)
    for precision in get_args(Precision):
        cases[f"predict, {IMAGES:,} images, {precision}"] = partial(predictions, precision)
    rows = {}
    for case, measure in cases.items():
        print(case, flush=True)
        row = measure()
        if row is None:
            continue
        rows[case] = row
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps({"environment": environment(), "rows": rows}, indent=2)
        (RESULTS / "gpu.json").write_text(text + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
