"""Compare a model that is updated with ten images with one that is fitted on all of them.

`python -m benchmarks.updating [DATA ...]` takes categories in the layout of MVTec AD, fits on all good images but the
last ten, updates with these, fits on all, and writes benchmarks/results/updating.json: the true covering radius of both
banks over all patches, the correlation of their scores of the test images, and the median times.
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
from torch import Tensor

import patchcore_plugin as pp
from benchmarks._measure import RESULTS, commit, environment, four_digits
from patchcore_plugin.data.datasets import load_categories
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.models.images import ImageReader, PreparedImage, stack

DATA = Path("../shared/data/hazelnut_reduced")
BACKBONE = "efficientnet-lite0"
LIMITS = {"radius_ratio": 2.0, "score_correlation": 0.99, "time_ratio": 0.2}


def patches(detector: pp.Detector, images: Sequence[Any]) -> Tensor:
    """Return all patches of images, [N, D]."""
    parts = []
    for batch in ImageReader(detector.recipe.preprocessing).batches(images):
        inputs = stack([item for item in batch if isinstance(item, PreparedImage)])
        parts.append(detector.member.pipeline.patches(inputs).grid.flatten(0, 2))
    return torch.cat(parts)


def compare(good: Sequence[Path], test: Sequence[Path], more: int, ratio: float, rounds: int) -> dict[str, Any]:
    """Return the figures of the updated and of the refitted model."""

    def make() -> pp.Detector:
        return pp.Detector.from_recipe("patchcore", backbone=BACKBONE, sampler={"ratio": ratio}, device="cpu")

    times: dict[str, list[float]] = {"update": [], "refit": [], "load_update_save": [], "make_refit_save": []}
    with tempfile.TemporaryDirectory() as folder:
        model, new = Path(folder) / "model.safetensors", Path(folder) / "new.safetensors"
        make().fit(good[:-more]).save(model)
        for _ in range(rounds):
            marks = [time.perf_counter()]
            updated = pp.Detector.load(model, device="cpu")
            marks.append(time.perf_counter())
            updated.update(good[-more:])
            marks.append(time.perf_counter())
            updated.save(new)
            marks.append(time.perf_counter())
            refit = make()
            marks.append(time.perf_counter())
            refit.fit(good)
            marks.append(time.perf_counter())
            refit.save(new)
            marks.append(time.perf_counter())
            times["update"].append(marks[2] - marks[1])
            times["load_update_save"].append(marks[3] - marks[0])
            times["refit"].append(marks[5] - marks[4])
            times["make_refit_save"].append(marks[6] - marks[3])
    every = patches(refit, good)
    radii = {
        name: float(NearestRows(model.bank.vectors)(every)[0].max())
        for name, model in (("updated", updated), ("refit", refit))
    }
    scores = [[prediction.score for prediction in model.predict(test)] for model in (updated, refit)]
    maps = [_patch_scores(model, test) for model in (updated, refit)]
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return {
        "images": len(good),
        "more": more,
        "test_images": len(test),
        "ratio": ratio,
        "rows": {"updated": updated.bank_rows, "refit": refit.bank_rows},
        "radius": {name: four_digits(value) for name, value in radii.items()},
        "radius_stated": four_digits(updated.covering_radius or 0.0),
        "radius_ratio": four_digits(radii["updated"] / radii["refit"]),
        "score_correlation": statistics.correlation(*scores),
        "patch_correlation": float(torch.corrcoef(torch.stack(maps))[0, 1]),
        "threshold": {"updated": updated.threshold, "refit": refit.threshold},
        "seconds": {name: four_digits(value) for name, value in medians.items()},
        "time_ratio": four_digits(medians["update"] / medians["refit"]),
        "time_ratio_with_files": four_digits(medians["load_update_save"] / medians["make_refit_save"]),
        "rounds": rounds,
    }


def _patch_scores(detector: pp.Detector, images: Sequence[Path]) -> Tensor:
    grid = patches(detector, images)
    return NearestRows(detector.bank.vectors)(grid)[0][:, 0]


def main() -> None:
    """Compare, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="*", default=[DATA])
    parser.add_argument("--more", type=int, default=10)
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rows = {}
    for folder in options.data:
        for category in load_categories(folder):
            good = sorted(category.train)
            test = [image.path for image in category.test]
            rows[category.name] = compare(good, test, options.more, options.ratio, options.rounds)
    passed = True
    for name, row in rows.items():
        within = {
            "radius_ratio": row["radius_ratio"] <= LIMITS["radius_ratio"],
            "score_correlation": row["score_correlation"] > LIMITS["score_correlation"],
            "time_ratio": row["time_ratio"] < LIMITS["time_ratio"],
        }
        passed = passed and all(within.values())
        print(f"{name}: {row['images'] - row['more']} images and {row['more']} more")
        for key, limit in LIMITS.items():
            print(f"  {key:18} {row[key]:.4f}  (limit {limit}){'' if within[key] else '  MISSED'}")
        print(f"  {json.dumps({key: row[key] for key in ('radius', 'radius_stated', 'patch_correlation', 'seconds')})}")
        print(f"  {json.dumps({key: row[key] for key in ('rows', 'threshold', 'time_ratio_with_files')})}")
    content = {"environment": environment(), "commit": commit(), "backbone": BACKBONE, "categories": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "updating.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
