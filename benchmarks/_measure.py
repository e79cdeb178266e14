"""Time functions in turns, and write the results: one JSON file per part, and tables in the README."""

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
"""Largest number of cores that other processes may use during a valid measurement."""
LIBRARIES = ("patchcore-plugin", "patchcore-native", "torch", "torchvision", "numpy", "anomalib", "timm", "faiss-cpu")
Row = dict[str, Any]


def in_turn(functions: Mapping[str, Callable[[], object]], seconds: float, rounds: int = 12) -> Row:
    """Call the functions in turns, round by round; return medians, and the range of each ratio.

    A round is disturbed if other processes use more than `QUIET` cores. Each round waits for a while until they do
    not. Disturbed rounds are left out unless all are disturbed. The rounds end after `seconds` with three valid ones,
    earlier once the middle half of all ratios lies within 5 %, and in any case after `rounds` or four times `seconds`.

    Parameters
    ----------
    functions
        By name, ours first, ready to be called.
    seconds
        Time for a normal measurement.
    rounds
        Largest number of rounds.

    Returns
    -------
    dict
        A row of the tables: times in seconds, ratios, and how disturbed the rounds were.
    """
    laps: list[dict[str, float]] = []
    loads: list[float] = []
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
        loads.append(max(0.0, _others_seconds() - others) / (time.perf_counter() - began))
        valid = [lap for lap, load in zip(laps, loads, strict=True) if load <= QUIET]
        ratios = {peer: [lap[peer] / lap[ours] for lap in valid] for peer in peers}
        stable = len(valid) >= 4 and all(_spread(values) < 0.05 for values in ratios.values())
        passed = time.perf_counter() - start
        if stable or len(laps) >= rounds or passed > (seconds if len(valid) >= 3 else 4 * seconds):
            break
    valid = valid or laps
    ratios = {peer: [lap[peer] / lap[ours] for lap in valid] for peer in peers}
    return {
        "ours_s": four_digits(statistics.median(lap[ours] for lap in valid)),
        "peers_s": {peer: four_digits(statistics.median(lap[peer] for lap in valid)) for peer in peers},
        "ratio_range": {peer: [four_digits(min(values)), four_digits(max(values))] for peer, values in ratios.items()},
        "rounds": len(valid),
        "rounds_left_out": len(laps) - len(valid),
        "cores_taken_by_others": round(
            statistics.mean(loads if valid is laps else (load for load in loads if load <= QUIET)), 2
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


def four_digits(value: float) -> float:
    """Round a value to four significant digits."""
    return float(f"{value:.4g}")


def _others_seconds() -> float:
    """Return the CPU seconds that other processes used, except children of this one; 0 if not on Linux."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    own = os.times()
    user, nice, system = (int(field) for field in stat.read_text(encoding="ascii").split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - sum(own[:4])


def memory(field: str) -> float:
    """Return a memory field of this process, such as VmRSS or VmHWM (its peak), in MiB; 0 if not on Linux."""
    status = Path("/proc/self/status")
    match = re.search(rf"{field}:\s+(\d+)", status.read_text(encoding="ascii")) if status.exists() else None
    return int(match[1]) / 1024 if match else 0.0


def peak_memory(function: Callable[[], object]) -> float:
    """Return the growth of the process in MiB while a function runs (Linux with glibc)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = memory("VmRSS")
    function()
    return memory("VmHWM") - before


def environment() -> dict[str, Any]:
    """Return the processor, settings and versions that figures depend on."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="ascii")) if info.exists() else None
    return {
        "processor": model[1] if model else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES if _is_installed(name)},
    }


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def commit() -> str:
    """Return the commit of the working tree, with "-dirty" if tracked files differ."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def write_row(part: str, case: str, row: Row) -> None:
    """Write a row to the file of a part, replacing an older one; drop rows of another environment."""
    _add(part, "rows", {case: {**row, "commit": commit()}})
    print(f"{part}: {case}\n  {json.dumps(row)}", file=sys.stderr, flush=True)


def write_grid(groups: Mapping[str, Mapping[str, float]]) -> None:
    """Write medians in seconds of several ways to compute the same to `grid.json`, replacing older ones of a group."""
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
    """Return all stored results as Markdown."""
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
            "| Case | Compared with | Ours, s | Theirs, s | Theirs / ours | Range | Notes |",
            "|---|---|---:|---:|---:|---:|---|",
        ]
        for case, row in data["rows"].items():
            for peer, seconds in row["peers_s"].items():
                low, high = row["ratio_range"][peer]
                load = f"other processes used {row['cores_taken_by_others']} cores"
                notes = "; ".join([*row["notes"], f"{row['rounds']} rounds, {load}, at {row['commit']}"])
                lines.append(
                    f"| {case} | {peer} | {row['ours_s']:.3g} | {seconds:.3g} | **{seconds / row['ours_s']:.3g}** "
                    f"| {low:.3g} to {high:.3g} | {notes} |"
                )
        lines.append("")
    return "\n".join(lines)


def _grid(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "| Input | Reference, s | Torch, s | Compiled, s | First / last | Commit |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, group in groups.items():
        ways = ("reference", "torch", "compiled")
        times = [group[way] for way in ways if way in group]
        seconds = " | ".join(f"{group[way]:.3g}" if way in group else "" for way in ways)
        lines.append(f"| {name} | {seconds} | **{times[0] / times[-1]:.3g}** | {group['commit']} |")
    return lines


def write_tables() -> str:
    """Write the tables into the README, between its marks, and return them."""
    text = tables()
    before, rest = README.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    README.write_text(f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{after}", encoding="utf-8")
    return text
