"""Measure the peak memory of fits within a memory budget, on 2,000 synthetic images.

`python -m benchmarks.memory_budget` draws the images into a temporary folder, runs each fit in a new process, and
writes benchmarks/results/memory_budget.json. A budget covers the memory that grows with the number of images. The base
memory of the process (Python, libraries, backbone, a batch of images) is the peak of a fit on few images minus
their patches.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._measure import RESULTS, commit, environment
from patchcore_plugin.cli.parsing import parse_size
from patchcore_plugin.data.synthetic import draw_dataset
from patchcore_plugin.models.fitting.memory import COPIES

BACKBONE = "efficientnet-lite0"
FEW = 16
"""Images of the fit that measures the base memory: enough for a whole batch."""
FIT = """
import json, sys
from patchcore_plugin import cli
from patchcore_plugin.evaluation.peak_memory import peak_memory
try:
    cli.main()
except SystemExit as exit:
    code = exit.code
print(json.dumps({"code": code, "peak": peak_memory()}))
"""


def fit(images: list[Path], folder: Path, size: int, *more: str) -> dict[str, Any]:
    """Fit in a new process; return the output of the command, its peak memory, and its first message."""
    image_list = folder / "images.txt"
    image_list.write_text("".join(f"{path}\n" for path in images), encoding="utf-8")
    words = ["fit", str(image_list), "--out", str(folder / "m.safetensors"), "--backbone", BACKBONE, "--device", "cpu"]
    words += ["--set", f"preprocessing.size={size},{size}", "--json", *more]
    ended = subprocess.run([sys.executable, "-c", FIT, *words], capture_output=True, text=True)
    *output, last = ended.stdout.strip().splitlines()
    measured = json.loads(last)
    if measured["code"]:
        sys.exit(ended.stderr)
    result: dict[str, Any] = json.loads("\n".join(output))
    return {**result, "peak": measured["peak"], "announced": ended.stderr.splitlines()[0]}


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=128, help="width and height in pixels, drawn and for the network")
    parser.add_argument("--budget", nargs="+", default=["200MB", "300MB"], help="like patchcore fit --memory-budget")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = draw_dataset(folder, train=options.images, size=options.size, good=1, defective=1)
        images = sorted(root.glob("train/good/*.png"))
        few = fit(images[:FEW], folder, options.size)
        dims = _dims(folder / "m.safetensors")
        base = few["peak"] - few["patches_seen"] * dims * 4
        for budget in options.budget:
            result = fit(images, folder, options.size, "--memory-budget", budget)
            features = result["patches_seen"] * dims * 4
            rows.append(
                {
                    "budget": parse_size(budget),
                    "images": result["images"],
                    "patches": result["patches_seen"],
                    "values": dims,
                    "all_at_once": COPIES * features,
                    "peak": result["peak"],
                    "own": base,
                    "taken": result["peak"] - base,
                    "within": result["peak"] - base <= parse_size(budget),
                    "bank_rows": result["bank_rows"],
                    "covering_radius": result["covering_radius"],
                    "seconds": result["seconds"],
                    "announced": result["announced"],
                }
            )
    print("| budget | without a budget | measured, without base | base | bank rows | patches | radius | s |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        sizes = " | ".join(f"{row[key] / 1e6:.0f} MB" for key in ("budget", "all_at_once", "taken", "own"))
        rest = f"{row['bank_rows']:,} | {row['patches']:,} | {row['covering_radius']:.2f} | {row['seconds']:.0f}"
        print(f"| {sizes} | {rest} |")
        print(f"  {row['announced']}", file=sys.stderr)
    content = {"environment": environment(), "commit": commit(), "backbone": BACKBONE, "rows_measured": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "memory_budget.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(row["within"] for row in rows) else 1)


def _dims(model: Path) -> int:
    from patchcore_plugin.models.file import read_manifest

    return int(read_manifest(model)["tensors"]["bank.vectors"]["shape"][1])


if __name__ == "__main__":
    main()
