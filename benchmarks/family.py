"""Evaluate all shipped recipes on a labelled data set, with a backbone whose weights need no download.

`python -m benchmarks.family DATA --out OUT` runs `patchcore evaluate` and writes benchmarks/results/family.json. The
same command resumes after an interruption.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._measure import RESULTS, commit, environment
from patchcore_plugin.models.recipes.recipe import Recipe

BACKBONE = "efficientnet-lite0"
LAYERS = {
    "padim": "stage2,stage3,stage5",
    "spade": "stage2,stage3,stage5,stage7",
    "dn2": "stage7,",
    "gaussian-ad": "stage1,stage2,stage3,stage4,stage5,stage6,stage7",
}
"""Layers with strides 4, 8 and 16 (and 32) for the recipes that use these of a ResNet; PatchCore uses the default."""
PAPER = {"padim": ("preprocessing.crop=224,224", "preprocessing.keep_aspect=true")}
"""Crop that the paper uses and the recipe does not: PaDiM scores positions, so dust at the border counts."""
MEMBERS = {"patchcore-ensemble": ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")}


def arguments(recipes: list[str], seed: int) -> list[str]:
    """Return the options of `patchcore evaluate`."""
    words = [word for recipe in recipes for word in ("--recipe", recipe)]
    words += ["--backbone", BACKBONE, "--seed", str(seed), "--published"]
    for recipe in recipes:
        if recipe in LAYERS:
            words += ["--set", f"{recipe}:backbone.layers={LAYERS[recipe]}"]
        for option in PAPER.get(recipe, ()):
            words += ["--set", f"{recipe}:{option}"]
        for place, backbone in enumerate(MEMBERS.get(recipe, ())):
            words += ["--set", f"{recipe}:{place}.backbone.name={backbone}"]
    return words


def main() -> None:
    """Run the evaluation, and write the figures with the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="labelled data set for patchcore evaluate")
    parser.add_argument("--out", type=Path, required=True, help="folder for reports and finished evaluations")
    parser.add_argument("--recipe", action="append", help="evaluate only this recipe; repeatable [default: all]")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    words = arguments(options.recipe or Recipe.names(), options.seed)
    program = [sys.executable, "-c", "from patchcore_plugin.cli import main; main()"]
    started = time.time()
    ended = subprocess.run([*program, "evaluate", str(options.data), "--out", str(options.out), *words])
    comparison = options.out / "comparison.json"
    # Exit code 1 can mean that one recipe failed or an image was unreadable; the other results are valid then.
    if ended.returncode not in (0, 1) or not comparison.is_file() or comparison.stat().st_mtime < started:
        sys.exit(ended.returncode)
    content = {
        "command": shlex.join(["patchcore", "evaluate", options.data.name, "--out", "OUT", *words]),
        "environment": environment(),
        "commit": commit(),
        "comparison": json.loads(comparison.read_text(encoding="utf-8")),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "family.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
