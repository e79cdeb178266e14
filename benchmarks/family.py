"""All shipped recipes on a labelled data set, with a backbone whose weights come with a package; keeps the figures.

`python -m benchmarks.family DATA --out OUT` runs `patchcore evaluate` and writes benchmarks/results/family.json. Broken
off, it goes on from where it was when it is started again with the same OUT.
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
"""Strides 4, 8 and 16 (and 32) for recipes that take these of a ResNet; PatchCore takes the backbone's own choice."""
PAPER = {"padim": ("preprocessing.crop=224,224", "preprocessing.keep_aspect=true")}
"""What the paper does and the recipe does not: PaDiM judges by a single position, and specks at the border count."""
MEMBERS = {"patchcore-ensemble": ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")}


def arguments(recipes: list[str], seed: int) -> list[str]:
    """Return the options of `patchcore evaluate`."""
    found = [word for recipe in recipes for word in ("--recipe", recipe)]
    found += ["--backbone", BACKBONE, "--seed", str(seed), "--published"]
    for recipe in recipes:
        if recipe in LAYERS:
            found += ["--set", f"{recipe}:backbone.layers={LAYERS[recipe]}"]
        for option in PAPER.get(recipe, ()):
            found += ["--set", f"{recipe}:{option}"]
        for place, backbone in enumerate(MEMBERS.get(recipe, ())):
            found += ["--set", f"{recipe}:{place}.backbone.name={backbone}"]
    return found


def main() -> None:
    """Compare, and keep the figures with the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a labelled data set, as patchcore evaluate takes it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the reports and of what is finished")
    parser.add_argument("--recipe", action="append", help="only these recipes; all by default")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    words = arguments(given.recipe or Recipe.names(), given.seed)
    program = [sys.executable, "-c", "from patchcore_plugin.cli import main; main()"]
    started = time.time()
    ended = subprocess.run([*program, "evaluate", str(given.data), "--out", str(given.out), *words])
    comparison = given.out / "comparison.json"
    # 1 may say that a recipe failed or an image was unreadable; all the rest is there then, and new.
    if ended.returncode not in (0, 1) or not comparison.is_file() or comparison.stat().st_mtime < started:
        sys.exit(ended.returncode)
    content = {
        "command": shlex.join(["patchcore", "evaluate", given.data.name, "--out", "OUT", *words]),
        "environment": environment(),
        "commit": commit(),
        "comparison": json.loads(comparison.read_text(encoding="utf-8")),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "family.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
