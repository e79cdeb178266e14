"""Predictions from files to scores and maps, compared with the backbone alone on inputs that are on the device."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from patchcore_plugin import Detector
from patchcore_plugin.data.synthetic import draw_dataset
from patchcore_plugin.models.images import BATCH, ImageReader, PreparedImage, stack
from patchcore_plugin.models.pipeline import Precision


def predictions_and_backbone(
    folder: Path, images: int, *, device: str, precision: Precision, backbone: str = "wide_resnet50", train: int = 160
) -> tuple[Callable[[], list[Any]], Callable[[], None]]:
    """Return a function that predicts images, and one that runs the backbone alone on as many, in batches of `BATCH`.

    Parameters
    ----------
    folder
        Folder for the images, a few dozen PNG files of 256 x 256 pixels that are used repeatedly.
    images
        Number of images to predict.
    device, precision, backbone
        Options of the detector. The weights of the backbone are random.
    train
        Number of training images. A random tenth of their patches is the bank.
    """
    root = draw_dataset(folder, seed=0, train=train, size=256, good=16, defective=4)
    detector = Detector.from_recipe(
        "patchcore",
        device=device,
        precision=precision,
        backbone={"name": backbone, "weights": "random"},
        sampler={"name": "random", "ratio": 0.1},
    ).fit(sorted(root.glob("train/good/*.png")))
    paths = list(islice(cycle(sorted(root.glob("test/*/*.png"))), images))
    batch = next(ImageReader(detector.recipe.preprocessing).batches(paths[:BATCH]))
    inputs = stack([item for item in batch if isinstance(item, PreparedImage)]).to(detector.device)
    network = detector.member.pipeline.backbone

    @torch.inference_mode()
    def alone() -> None:
        for low in range(0, images, BATCH):
            with torch.autocast(detector.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                network(inputs[: images - low])

    return lambda: list(detector.predict_each(paths)), alone
