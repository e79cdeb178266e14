"""A model that gets ten more images, beside one that is fitted on all of them; keeps the figures.

`python -m benchmarks.updating [DATA ...]` takes categories in MVTec AD's layout, fits on all good images but the last
ten, updates with these, fits on all, and writes benchmarks/results/updating.json: the true covering radius over all
patches of both banks, how their scores of the test images go together, and the median time of both, round by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from patchcore_plugin.models.fitting.inputs import read_batches, stacked
from torch import Tensor

import patchcore_plugin as pp
from benchmarks._measure import RESULTS, commit, environment, rounded
from patchcore_plugin.data.datasets import load_categories
from patchcore_plugin.kernels.nearest import NearestRows

DATA = Path("../shared/data/hazelnut_reduced")
BACKBONE = "efficientnet-lite0"
LIMITS = {"radius_ratio": 2.0, "score_correlation": 0.99, "time_ratio": 0.2}


def patches(detector: pp.Detector, images: Sequence[Any]) -> Tensor:
    """Return all patches of images, [N, D]."""
    found = []
    for batch in read_batches(images, detector.recipe.preprocessing, "stop"):
        inputs = stacked([item for item in batch if not isinstance(item, pp.ImageError)])
        found.append(detector._parts.patches(inputs).grid.flatten(0, 2))
    return torch.cat(found)


def compare(good: Sequence[Path], test: Sequence[Path], more: int, ratio: float, rounds: int) -> dict[str, Any]:
    """Return what both give and take."""

    def make() -> pp.Detector:
        return pp.Detector.from_recipe("patchcore", backbone=BACKBONE, sampler={"ratio": ratio}, device="cpu")

    taken: dict[str, list[float]] = {"update": [], "refit": [], "load_update_save": [], "make_refit_save": []}
    with tempfile.TemporaryDirectory() as folder:
        model, new = Path(folder) / "model.safetensors", Path(folder) / "new.safetensors"
        make().fit(good[:-more]).save(model)
        for _ in range(rounds):
            times = [time.perf_counter()]
            updated = pp.Detector.load(model, device="cpu")
            times.append(time.perf_counter())
            updated.update(good[-more:])
            times.append(time.perf_counter())
            updated.save(new)
            times.append(time.perf_counter())
            refit = make()
            times.append(time.perf_counter())
            refit.fit(good)
            times.append(time.perf_counter())
            refit.save(new)
            times.append(time.perf_counter())
            taken["update"].append(times[2] - times[1])
            taken["load_update_save"].append(times[3] - times[0])
            taken["refit"].append(times[5] - times[4])
            taken["make_refit_save"].append(times[6] - times[3])
    every = patches(refit, good)
    radii = {
        name: float(NearestRows(model.bank.vectors)(every)[0].max())
        for name, model in (("updated", updated), ("refit", refit))
    }
    scores = [[found.score for found in model.predict(test)] for model in (updated, refit)]
    maps = [_patch_scores(model, test) for model in (updated, refit)]
    medians = {name: statistics.median(each) for name, each in taken.items()}
    return {
        "images": len(good),
        "more": more,
        "test_images": len(test),
        "ratio": ratio,
        "rows": {"updated": updated.bank_rows, "refit": refit.bank_rows},
        "radius": {name: rounded(value) for name, value in radii.items()},
        "radius_stated": rounded(updated.covering_radius or 0.0),
        "radius_ratio": rounded(radii["updated"] / radii["refit"]),
        "score_correlation": statistics.correlation(*scores),
        "patch_correlation": float(torch.corrcoef(torch.stack(maps))[0, 1]),
        "threshold": {"updated": updated.threshold, "refit": refit.threshold},
        "seconds": {name: rounded(value) for name, value in medians.items()},
        "time_ratio": rounded(medians["update"] / medians["refit"]),
        "time_ratio_with_files": rounded(medians["load_update_save"] / medians["make_refit_save"]),
        "rounds": rounds,
    }


def _patch_scores(detector: pp.Detector, images: Sequence[Path]) -> Tensor:
    grid = patches(detector, images)
    return NearestRows(detector.bank.vectors)(grid)[0][:, 0]


def main() -> None:
    """Compare, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="*", default=[DATA])
    parser.add_argument("--more", type=int, default=10)
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    rows = {}
    for folder in given.data:
        for category in load_categories(folder):
            good = sorted(category.train)
            test = [image.path for image in category.test]
            rows[category.name] = compare(good, test, given.more, given.ratio, given.rounds)
    kept = True
    for name, row in rows.items():
        held = {
            "radius_ratio": row["radius_ratio"] <= LIMITS["radius_ratio"],
            "score_correlation": row["score_correlation"] > LIMITS["score_correlation"],
            "time_ratio": row["time_ratio"] < LIMITS["time_ratio"],
        }
        kept = kept and all(held.values())
        print(f"{name}: {row['images'] - row['more']} images and {row['more']} more")
        for key, limit in LIMITS.items():
            print(f"  {key:18} {row[key]:.4f}  (limit {limit}){'' if held[key] else '  MISSED'}")
        print(f"  {json.dumps({key: row[key] for key in ('radius', 'radius_stated', 'patch_correlation', 'seconds')})}")
        print(f"  {json.dumps({key: row[key] for key in ('rows', 'threshold', 'time_ratio_with_files')})}")
    content = {"environment": environment(), "commit": commit(), "backbone": BACKBONE, "categories": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "updating.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
