"""Whether the false-alarm rate that a threshold promises is kept by good images that the model never saw.

`python -m benchmarks.false_alarms [DATA ...] [--splits 200] [--rate 0.1]` takes categories of a data set, splits the
good images of each at random, fits on one part as `patchcore fit` does, and judges the other part and the defective
images; again for every split. It prints the rates and writes benchmarks/results/false_alarms.json. Only the backbone's
features are kept from split to split.
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
from benchmarks._measure import RESULTS, commit, environment, rounded
from patchcore_plugin.data.datasets import load_categories
from patchcore_plugin.models.calibration import Calibration, GoodImage
from patchcore_plugin.plugins.protocols import Backbone

DATA = Path("../shared/data/hazelnut_reduced")
BACKBONE = "efficientnet-lite0"
SHARE = 0.8
"""How much of the good images a model is fitted on."""
RATES = (0.05, 0.1, 0.2)


class Remembering:
    """A backbone that computes each tensor once, however often it is asked."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.mean, self.std = backbone.mean, backbone.std
        self._known: dict[str, Sequence[Tensor]] = {}

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Return the feature maps of images [B, 3, H, W]."""
        maps = [self._maps(tensor) for tensor in images]
        return [torch.cat(level) for level in zip(*maps, strict=True)]

    def _maps(self, tensor: Tensor) -> Sequence[Tensor]:
        key = hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()
        if key not in self._known:
            self._known[key] = self._backbone(tensor[None])
        return self._known[key]

    def to(self, device: torch.device | str) -> Remembering:
        """Move the weights to `device` and return the backbone."""
        self._backbone = self._backbone.to(device)
        return self

    def weight_hash(self) -> str:
        """Return that of the backbone."""
        return self._backbone.weight_hash()


class Split(NamedTuple):
    """What one split gave: the calibration, and what the images got that the model was not fitted on."""

    calibration: Calibration
    good: list[GoodImage]
    defective: dict[str, list[GoodImage]]


def judged(detector: pp.Detector, images: Sequence[Path]) -> list[GoodImage]:
    """Return score and highest map value of each image."""
    return [GoodImage.of(found.score, found.anomaly_map) for found in detector.predict(images)]


def splits(folder: Path, count: int) -> list[Split]:
    """Fit and judge so many random splits of a category's good images."""
    (category,) = load_categories(folder)
    good = [*category.train, *(image.path for image in category.test if not image.is_anomalous)]
    defective: dict[str, list[Path]] = {}
    for image in category.test:
        if image.is_anomalous:
            defective.setdefault(image.kind, []).append(image.path)
    recipe = pp.Recipe.load("patchcore").change("backbone", BACKBONE)
    host = pp.Host()
    backbone = Remembering(host.build("backbone", BACKBONE, host.configure("backbone", BACKBONE, {})))
    found = []
    for seed in range(count):
        order = np.random.default_rng(seed).permutation(len(good)).tolist()
        known, unknown = order[: int(SHARE * len(good))], order[int(SHARE * len(good)) :]
        detector = pp.Detector(recipe, seed=seed, host=host, backbone=backbone)
        detector.fit([good[number] for number in known])
        found.append(
            Split(
                detector.calibration,
                judged(detector, [good[number] for number in unknown]),
                {kind: judged(detector, images) for kind, images in defective.items()},
            )
        )
        print(f"{category.name}: {seed + 1} of {count} splits", file=sys.stderr, flush=True)
    return found


def figures(found: Sequence[Split], rate: float) -> dict[str, object]:
    """Return the shares of images above the thresholds for a rate, averaged over the splits."""
    alarms, regions = [], []
    hits: dict[str, list[float]] = {}
    for split in found:
        calibration = split.calibration.at_rate(rate)
        assert calibration.threshold is not None
        assert calibration.map_threshold is not None
        alarms.append(mean(image.score > calibration.threshold for image in split.good))
        regions.append(mean((image.highest or 0) > calibration.map_threshold for image in split.good))
        for kind, images in split.defective.items():
            hits.setdefault(kind, []).append(mean(image.score > calibration.threshold for image in images))
    return {
        "promised": rate,
        "possible": rounded(found[0].calibration.at_rate(rate).false_alarm_rate or 0),
        "observed": rounded(mean(alarms)),
        "standard_error": rounded(stdev(alarms) / len(alarms) ** 0.5) if len(alarms) > 1 else None,
        "with_regions": rounded(mean(regions)),
        "detected": {kind: rounded(mean(each)) for kind, each in sorted(hits.items())},
    }


def keep(category: str, found: dict[str, object]) -> None:
    """Write the figures of a category, in place of older ones; those of another environment are dropped."""
    path = RESULTS / "false_alarms.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    now = environment()
    others = content["categories"] if content.get("environment") == now else {}
    RESULTS.mkdir(exist_ok=True)
    content = {"environment": now, "categories": {**others, category: found}}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="*", default=[DATA], help="categories of a labelled data set")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.1, help=f"a further rate beside {RATES}")
    given = parser.parse_args()
    for folder in given.data:
        found = splits(folder, given.splits)
        rows = [figures(found, rate) for rate in sorted({*RATES, given.rate})]
        fitted, unknown = len(found[0].calibration.scores), len(found[0].good)
        print(f"{folder.name}: fitted on {fitted} good images, {unknown} others judged, {len(found)} splits")
        for row in rows:
            print(" ", json.dumps(row), flush=True)
        keep(
            folder.name,
            {"fitted": fitted, "held_out": unknown, "splits": len(found), "commit": commit(), "rates": rows},
        )


if __name__ == "__main__":
    main()
