"""What a fit within a memory budget really takes, on 2,000 drawn images; keeps the figures.

`python -m benchmarks.memory_budget` draws the images into a temporary folder, fits in processes of their own, and
writes benchmarks/results/memory_budget.json. The budget is for what grows with the number of images; what the process
takes without, for Python, libraries, backbone and a batch of images, is the peak of a fit on few images, less their
patches.
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
"""Images of the fit that shows what a process takes: enough for a whole batch."""
FIT = """
import json, sys
from patchcore_plugin import cli
from patchcore_plugin.evaluation.peak_memory import peak_memory
try:
    cli.main()
except SystemExit as done:
    code = done.code
print(json.dumps({"code": code, "peak": peak_memory()}))
"""


def fit(images: list[Path], folder: Path, size: int, *more: str) -> dict[str, Any]:
    """Fit in a process of its own; return what the command says, its peak memory, and what it announced."""
    listed = folder / "images.txt"
    listed.write_text("".join(f"{path}\n" for path in images), encoding="utf-8")
    words = ["fit", str(listed), "--out", str(folder / "m.safetensors"), "--backbone", BACKBONE, "--device", "cpu"]
    words += ["--set", f"preprocessing.size={size},{size}", "--json", *more]
    ended = subprocess.run([sys.executable, "-c", FIT, *words], capture_output=True, text=True)
    *said, last = ended.stdout.strip().splitlines()
    measured = json.loads(last)
    if measured["code"]:
        sys.exit(ended.stderr)
    found: dict[str, Any] = json.loads("\n".join(said))
    return {**found, "peak": measured["peak"], "announced": ended.stderr.splitlines()[0]}


def main() -> None:
    """Measure, print a table, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=128, help="pixels of a side, drawn and for the network")
    parser.add_argument("--budget", nargs="+", default=["200MB", "300MB"], help="as for patchcore fit --memory-budget")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = draw_dataset(folder, train=given.images, size=given.size, good=1, defective=1)
        images = sorted(root.glob("train/good/*.png"))
        few = fit(images[:FEW], folder, given.size)
        dims = _dims(folder / "m.safetensors")
        own = few["peak"] - few["patches_seen"] * dims * 4
        for budget in given.budget:
            found = fit(images, folder, given.size, "--memory-budget", budget)
            features = found["patches_seen"] * dims * 4
            rows.append(
                {
                    "budget": parse_size(budget),
                    "images": found["images"],
                    "patches": found["patches_seen"],
                    "values": dims,
                    "all_at_once": COPIES * features,
                    "peak": found["peak"],
                    "own": own,
                    "taken": found["peak"] - own,
                    "within": found["peak"] - own <= parse_size(budget),
                    "bank_rows": found["bank_rows"],
                    "covering_radius": found["covering_radius"],
                    "seconds": found["seconds"],
                    "announced": found["announced"],
                }
            )
    print(
        "| budget | all at once | taken beside the backbone's | backbone's own | bank rows | of patches | radius | s |"
    )
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
