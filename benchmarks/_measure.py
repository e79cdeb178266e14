"""Times functions in turn, and keeps the results: one JSON file per part, and the tables made of them."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
MARKS = "<!-- results -->", "<!-- end of results -->"
QUIET = 0.1
"""Cores that other processes may use without disturbing a measurement."""
LIBRARIES = ("patchcore-plugin", "patchcore-native", "torch", "torchvision", "numpy", "anomalib", "timm", "faiss-cpu")
Row = dict[str, Any]


def in_turn(functions: Mapping[str, Callable[[], object]], seconds: float, rounds: int = 12) -> Row:
    """Call the functions one after the other, round by round; return medians, and the range of each ratio.

    A round is disturbed if other processes used more than `QUIET` cores meanwhile: each waits a while for them, and
    does not count if others do. Rounds end after `seconds` with three undisturbed; sooner where the middle half of
    all ratios lies within 5 %; or after `rounds` or four times `seconds`, whatever they are.

    Parameters
    ----------
    functions
        By name; ours first. Whatever was to be set up has been.
    """
    laps: list[dict[str, float]] = []
    taken: list[float] = []
    ours, *peers = functions
    start = time.perf_counter()
    while True:
        _wait_for_quiet(seconds / 2)
        others, began = _others_seconds(), time.perf_counter()
        laps.append({})
        for name, function in functions.items():
            before = time.perf_counter()
            function()
            laps[-1][name] = time.perf_counter() - before
        taken.append(max(0.0, _others_seconds() - others) / (time.perf_counter() - began))
        counted = [lap for lap, each in zip(laps, taken, strict=True) if each <= QUIET]
        ratios = {peer: [lap[peer] / lap[ours] for lap in counted] for peer in peers}
        stable = len(counted) >= 4 and all(_spread(each) < 0.05 for each in ratios.values())
        passed = time.perf_counter() - start
        if stable or len(laps) >= rounds or passed > (seconds if len(counted) >= 3 else 4 * seconds):
            break
    counted = counted or laps
    ratios = {peer: [lap[peer] / lap[ours] for lap in counted] for peer in peers}
    return {
        "ours_s": rounded(statistics.median(lap[ours] for lap in counted)),
        "peers_s": {peer: rounded(statistics.median(lap[peer] for lap in counted)) for peer in peers},
        "ratio_range": {peer: [rounded(min(each)), rounded(max(each))] for peer, each in ratios.items()},
        "rounds": len(counted),
        "rounds_left_out": len(laps) - len(counted),
        "cores_taken_by_others": round(
            statistics.mean(taken if counted is laps else (t for t in taken if t <= QUIET)), 2
        ),
    }


def _wait_for_quiet(seconds: float) -> None:
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        others = _others_seconds()
        time.sleep(1.0)
        if _others_seconds() - others <= QUIET:
            break


def _spread(values: list[float]) -> float:
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle


def rounded(value: float) -> float:
    """Return four digits of a value."""
    return float(f"{value:.4g}")


def _others_seconds() -> float:
    """Return the CPU time that processes other than this one and its children have used, where Linux tells."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    own = os.times()
    user, nice, system = (int(each) for each in stat.read_text(encoding="ascii").split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - sum(own[:4])


def memory(field: str) -> float:
    """Return a field of this process's memory, such as VmRSS or VmHWM (its peak), in MiB; 0 where Linux is not."""
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+)", status.read_text(encoding="ascii")) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


def peak_memory(function: Callable[[], object]) -> float:
    """Return by how many MiB the process grows while the function runs (Linux with glibc)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = memory("VmRSS")
    function()
    return memory("VmHWM") - before


def environment() -> dict[str, Any]:
    """Return what the figures depend on."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="ascii")) if info.exists() else None
    return {
        "processor": model[1] if model else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES if _installed(name)},
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def commit() -> str:
    """Return the commit that the working tree is at, with "-dirty" where tracked files differ."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def keep(part: str, case: str, row: Row) -> None:
    """Write a row into the part's file, in place of an older one; rows of another environment are dropped."""
    _add(part, "rows", {case: {**row, "commit": commit()}})
    print(f"{part}: {case}\n  {json.dumps(row)}", file=sys.stderr, flush=True)


def keep_grid(groups: Mapping[str, Mapping[str, float]]) -> None:
    """Write medians, in seconds, of ways to compute the same into `grid.json`, in place of older ones of a group."""
    now = commit()
    _add("grid", "groups", {name: {**medians, "commit": now} for name, medians in groups.items()})


def _add(part: str, key: str, new: Mapping[str, Any]) -> None:
    path = RESULTS / f"{part}.json"
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    now = environment()
    old = data.get(key, {}) if data.get("environment") == now else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"environment": now, key: {**old, **new}}, indent=2) + "\n", encoding="utf-8")


def tables() -> str:
    """Return all kept results as Markdown."""
    lines: list[str] = []
    for path in sorted(RESULTS.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        if not {"rows", "groups"} & set(data):
            continue
        env = data["environment"]
        lines += [f"### {path.stem.capitalize()}", ""]
        lines += [
            f"{env['processor']}, {env['instructions']}, {env['cores']} cores, {env['threads']} threads, "
            f"Python {env['python']}, " + ", ".join(f"{k} {v}" for k, v in env["versions"].items()),
            "",
        ]
        if "groups" in data:
            lines += [*_grid(data["groups"]), ""]
            continue
        lines += [
            "| Case | Beside | Ours, s | Theirs, s | Theirs / ours | Range | Notes |",
            "|---|---|---:|---:|---:|---:|---|",
        ]
        for case, row in data["rows"].items():
            for peer, seconds in row["peers_s"].items():
                low, high = row["ratio_range"][peer]
                load = f"{row['rounds']} rounds, others used {row['cores_taken_by_others']} cores, at {row['commit']}"
                notes = "; ".join([*row["notes"], load])
                lines.append(
                    f"| {case} | {peer} | {row['ours_s']:.3g} | {seconds:.3g} | **{seconds / row['ours_s']:.3g}** "
                    f"| {low:.3g} to {high:.3g} | {notes} |"
                )
        lines.append("")
    return "\n".join(lines)


def _grid(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| Input | Reference, s | Torch, s | Compiled, s | First / last | |", "|---|---:|---:|---:|---:|---|"]
    for name, group in groups.items():
        ways = ("reference", "torch", "compiled")
        there = [group[way] for way in ways if way in group]
        seconds = " | ".join(f"{group[way]:.3g}" if way in group else "" for way in ways)
        lines.append(f"| {name} | {seconds} | **{there[0] / there[-1]:.3g}** | at {group['commit']} |")
    return lines


def write_tables() -> str:
    """Put the tables into the README, between its marks, and return them."""
    found = tables()
    before, rest = README.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    README.write_text(f"{before}{MARKS[0]}\n\n{found}\n{MARKS[1]}{after}", encoding="utf-8")
    return found
