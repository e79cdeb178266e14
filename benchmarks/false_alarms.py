"""Compare the guaranteed false-alarm rate with the rate observed on held-out good images.

`python -m benchmarks.false_alarms [DATA ...] [--splits 200] [--rate 0.1]` splits the good images of a category at
random, fits on one part like `patchcore fit`, and predicts the other part and the defective images, once per split. It
prints the rates and writes benchmarks/results/false_alarms.json. Splits share only the features of the backbone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import patchcore_plugin as pp
from benchmarks._measure import RESULTS, commit, environment, four_digits
from patchcore_plugin.data.datasets import load_categories
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.held_out_score import HeldOutScore
from patchcore_plugin.plugins.protocols import Backbone

DATA = Path("../shared/data/hazelnut_reduced")
BACKBONE = "efficientnet-lite0"
SHARE = 0.8
"""Fraction of the good images that a model is fitted on."""
RATES = (0.05, 0.1, 0.2)


class CachingBackbone:
    """A backbone that computes the feature maps of each image once."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.mean, self.std = backbone.mean, backbone.std
        self._cache: dict[str, Sequence[Tensor]] = {}

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Return the feature maps of images [B, 3, H, W]."""
        maps = [self._maps(tensor) for tensor in images]
        return [torch.cat(level) for level in zip(*maps, strict=True)]

    def _maps(self, tensor: Tensor) -> Sequence[Tensor]:
        key = hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()
        if key not in self._cache:
            self._cache[key] = self._backbone(tensor[None])
        return self._cache[key]

    def to(self, device: torch.device | str) -> CachingBackbone:
        """Move the weights to `device` and return the backbone."""
        self._backbone = self._backbone.to(device)
        return self

    def weight_hash(self) -> str:
        """Return the weight hash of the backbone."""
        return self._backbone.weight_hash()


class Split(NamedTuple):
    """Result of one split: the calibration, and the scores of the held-out good and the defective images."""

    calibration: Calibration
    good: list[HeldOutScore]
    defective: dict[str, list[HeldOutScore]]


def predict_scores(detector: pp.Detector, images: Sequence[Path]) -> list[HeldOutScore]:
    """Return score and highest map value of each image."""
    return [HeldOutScore.summarise(result.score, result.anomaly_map) for result in detector.predict(images)]


def run_splits(folder: Path, count: int) -> list[Split]:
    """Fit and predict `count` random splits of the good images of a category."""
    (category,) = load_categories(folder)
    good = [*category.train, *(image.path for image in category.test if not image.is_anomalous)]
    defective: dict[str, list[Path]] = {}
    for image in category.test:
        if image.is_anomalous:
            defective.setdefault(image.kind, []).append(image.path)
    recipe = pp.Recipe.load("patchcore").change("backbone", BACKBONE)
    host = pp.Host()
    backbone = CachingBackbone(host.build("backbone", BACKBONE, host.configure("backbone", BACKBONE, {})))
    splits = []
    for seed in range(count):
        order = np.random.default_rng(seed).permutation(len(good)).tolist()
        training, held_out = order[: int(SHARE * len(good))], order[int(SHARE * len(good)) :]
        detector = pp.Detector(recipe, seed=seed, host=host)
        detector.member.pipeline.backbone = backbone
        detector.fit([good[number] for number in training])
        splits.append(
            Split(
                detector.calibration,
                predict_scores(detector, [good[number] for number in held_out]),
                {kind: predict_scores(detector, images) for kind, images in defective.items()},
            )
        )
        print(f"{category.name}: {seed + 1} of {count} splits", file=sys.stderr, flush=True)
    return splits


def figures(splits: Sequence[Split], rate: float) -> dict[str, object]:
    """Return the fractions of images above the thresholds for a rate, averaged over the splits."""
    alarms, regions = [], []
    hits: dict[str, list[float]] = {}
    for split in splits:
        calibration = split.calibration.at_rate(rate)
        assert calibration.threshold is not None
        assert calibration.map_threshold is not None
        alarms.append(mean(image.score > calibration.threshold for image in split.good))
        regions.append(mean((image.highest or 0) > calibration.map_threshold for image in split.good))
        for kind, images in split.defective.items():
            hits.setdefault(kind, []).append(mean(image.score > calibration.threshold for image in images))
    return {
        "requested": rate,
        "possible": four_digits(splits[0].calibration.at_rate(rate).false_alarm_rate or 0),
        "observed": four_digits(mean(alarms)),
        "standard_error": four_digits(stdev(alarms) / len(alarms) ** 0.5) if len(alarms) > 1 else None,
        "with_regions": four_digits(mean(regions)),
        "detected": {kind: four_digits(mean(rates)) for kind, rates in sorted(hits.items())},
    }


def write(category: str, result: dict[str, object]) -> None:
    """Write the figures of a category, replacing older ones; drop those of another environment."""
    path = RESULTS / "false_alarms.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    now = environment()
    others = content["categories"] if content.get("environment") == now else {}
    RESULTS.mkdir(exist_ok=True)
    content = {"environment": now, "categories": {**others, category: result}}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="*", default=[DATA], help="categories of labelled data sets")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.1, help=f"another rate in addition to {RATES}")
    options = parser.parse_args()
    for folder in options.data:
        splits = run_splits(folder, options.splits)
        rows = [figures(splits, rate) for rate in sorted({*RATES, options.rate})]
        training, held_out = len(splits[0].calibration.scores), len(splits[0].good)
        print(f"{folder.name}: {training} training images, {held_out} held-out good images, {len(splits)} splits")
        for row in rows:
            print(" ", json.dumps(row), flush=True)
        write(
            folder.name,
            {"fitted": training, "held_out": held_out, "splits": len(splits), "commit": commit(), "rates": rows},
        )


if __name__ == "__main__":
    main()
