"""A detector whose anomaly score of a pixel is its darkness, and a category for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from patchcore_plugin.data.datasets import Category, TestImage
from patchcore_plugin.data.types import OnError, Progress
from patchcore_plugin.errors import ImageError, PatchcoreError
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.held_out_score import HeldOutScore
from tests.inference.predictions import FakePrediction

CALIBRATION = Calibration.from_held_out(
    [HeldOutScore(score, 0.0, score) for score in (0.2, 0.3, 0.4)], "three"
).at_threshold(0.5)


@dataclass
class FakeDetector:
    has_maps: bool = True
    fails_after: int | None = None
    covering_radius: float = 0.25
    threshold: float | None = 0.5
    map_scale: tuple[float, float] = (0.5, 1.0)
    bank_rows: int = 7
    skipped: list[ImageError] = field(default_factory=list)
    calibration: Calibration = CALIBRATION
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        return {"seed": 3}

    def fit(self, paths: Sequence[Path], *, on_error: OnError, progress: Progress | None) -> None:
        if not paths:
            raise PatchcoreError("no images to fit on")
        if progress is not None:
            progress("patches", len(paths), len(paths))

    def predict_each(
        self, images: Iterable[Any], *, on_error: OnError = "stop", keep_pixels: bool = False
    ) -> Iterator[FakePrediction | ImageError]:
        for index, path in enumerate(images):
            if index == self.fails_after:
                raise PatchcoreError("power failure")
            grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.stat().st_size > 20 else None
            if grey is None:
                error = ImageError(f"{path}: cannot be read")
                if on_error == "stop":
                    raise error
                yield error
                continue
            darkness = (1 - grey / 255).astype(np.float32)
            score = float(darkness.max())
            pixels = cv2.imread(str(path)) if keep_pixels else None
            yield FakePrediction(str(path), score, darkness if self.has_maps else None, pixels=pixels)


def write_image(path: Path, grey: int, spot: int | None = None, shape: tuple[int, int] = (24, 32)) -> Path:
    """Write a grey image, optionally with a square of another grey."""
    image = np.full((*shape, 3), grey, dtype=np.uint8)
    if spot is not None:
        image[4:10, 6:14] = spot
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return path


def write_mask(path: Path, shape: tuple[int, int] = (24, 32)) -> Path:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[4:10, 6:14] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask)
    return path


def write_category(folder: Path, name: str = "nut") -> Category:
    root = folder / name
    good = [write_image(root / f"test/good/{k:03}.png", 200 - 10 * k) for k in range(3)]
    bad = [write_image(root / f"test/hole/{k:03}.png", 200, spot=20 + 40 * k) for k in range(3)]
    masks = [write_mask(root / f"ground_truth/hole/{k:03}_mask.png") for k in range(3)]
    return Category(
        name=name,
        train=(write_image(root / "train/good/000.png", 200),),
        test=(
            *(TestImage(path, "good", False, None) for path in good),
            *(TestImage(path, "hole", True, mask) for path, mask in zip(bad, masks, strict=True)),
        ),
    )
