"""Striped plates, and a small detector for them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import patchcore_plugin as pp

Image = NDArray[np.uint8]


def draw(seed: int, *, defect: bool = False, shape: tuple[int, int] = (96, 128)) -> Image:
    """Return a grey plate with stripes; the defect is a bright blob at three quarters of width and height."""
    rng = np.random.default_rng(seed)
    height, width = shape
    image = np.full((height, width, 3), 120.0)
    image[:, :: max(4, width // 16)] += 40
    image += rng.normal(0, 4, image.shape)
    if defect:
        centre = (3 * width // 4, 3 * height // 4)
        cv2.circle(image, centre, height // 10, (240.0, 30.0, 30.0), -1, cv2.LINE_AA)
    drawn: Image = np.clip(image, 0, 255).astype(np.uint8)
    return drawn


def make(**changes: Any) -> pp.Detector:
    changes = {
        "backbone": "efficientnet-lite0",
        "preprocessing": {"size": [64, 64]},
        "sampler": {"ratio": 0.2},
        "device": "cpu",
        **changes,
    }
    return pp.Detector.from_recipe("patchcore", **changes)
