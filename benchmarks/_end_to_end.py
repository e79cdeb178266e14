"""Whole predictions, from files to scores and maps, beside the backbone alone on inputs that are on the device."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from patchcore_plugin.models.fitting.inputs import BATCH, Input, read_batches, stacked

from patchcore_plugin import Detector
from patchcore_plugin.data.synthetic import draw_dataset
from patchcore_plugin.models.pipeline import Composition, Precision


def predictions_and_backbone(
    folder: Path, images: int, *, device: str, precision: Precision, backbone: str = "wide_resnet50", train: int = 160
) -> tuple[Callable[[], list[Any]], Callable[[], None]]:
    """Return what judges so many images, and what lets the backbone alone see as many, a batch of `BATCH` at a time.

    Parameters
    ----------
    folder
        Where the images are drawn, 256 x 256 PNG files; a few dozen of them, which come again and again.
    images
        How many are judged.
    device, precision, backbone
        Those of the detector; the backbone's weights are random.
    train
        How many images it is fitted on. A tenth of their patches are the bank, chosen at random.
    """
    root = draw_dataset(folder, seed=0, train=train, size=256, good=16, defective=4)
    detector = Detector.from_recipe(
        "patchcore",
        device=device,
        precision=precision,
        backbone={"name": backbone, "weights": "random"},
        sampler={"name": "random", "ratio": 0.1},
    ).fit(sorted(root.glob("train/good/*.png")))
    shown = list(islice(cycle(sorted(root.glob("test/*/*.png"))), images))
    parts = Composition(detector.recipe, seed=detector.seed, device=device, precision=precision)
    read = next(read_batches(shown[:BATCH], detector.recipe.preprocessing, "stop"))
    inputs = stacked([item for item in read if isinstance(item, Input)]).to(detector.device)

    @torch.inference_mode()
    def alone() -> None:
        for low in range(0, images, BATCH):
            with torch.autocast(detector.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                parts.backbone(inputs[: images - low])

    return lambda: list(detector.predict_each(shown)), alone
