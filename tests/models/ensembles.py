"""Small ensembles, and images for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import patchcore_plugin as pp
from patchcore_plugin.models.preprocessing import prepare

Image = NDArray[np.uint8]


def draw(seed: int, *, defect: bool = False) -> Image:
    """Return a noisy disc on a plate, 80 x 96; the defect is a dark blot at its right."""
    rng = np.random.default_rng(seed)
    image = np.full((80, 96, 3), 190.0)
    cv2.circle(image, (48 + int(rng.integers(-3, 4)), 40), 26, (90.0, 140.0, 90.0), -1)
    if defect:
        cv2.circle(image, (64, 40), 8, (10.0, 10.0, 60.0), -1)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


GOOD = [draw(seed) for seed in range(12)]
TEST = [draw(100), draw(101, defect=True)]
FINE = {"name": "efficientnet-lite0", "layers": ["stage3", "stage4"]}
COARSE = {"name": "efficientnet-lite0", "layers": ["stage5"]}
OTHER = {"name": "efficientnet-lite1", "layers": ["stage3"]}
DN2 = {"recipe": "dn2", "backbone": FINE}


def member(backbone: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {"recipe": "patchcore", "backbone": backbone, "sampler": {"ratio": 0.1}, **changes}


def recipe(*members: Any, **tables: Any) -> pp.Recipe:
    return pp.Recipe.from_dict({"name": "mine", "preprocessing": {"size": [64, 64]}, **tables, "members": [*members]})


def make(*members: Any, seed: int = 0, host: pp.Host | None = None, **tables: Any) -> pp.Detector:
    return pp.Detector(recipe(*members, **tables), seed=seed, device="cpu", host=host)


def alone(ensemble: pp.Detector, number: int, host: pp.Host | None = None) -> pp.Detector:
    """Return a detector of its own of a member's recipe."""
    return pp.Detector(ensemble.recipe.members[number], seed=ensemble.seed, device="cpu", host=host)


def grids(detector: pp.Detector, image: Image) -> NDArray[np.float32]:
    """Return the patch scores of an image, by the plain way through the components."""
    parts = detector._parts
    found = parts.score(parts.patches(prepare(image, detector.recipe.preprocessing)[None])).map
    assert found is not None
    return np.asarray(found[0].numpy())


def map_of(prediction: pp.Prediction) -> NDArray[np.float32]:
    assert prediction.anomaly_map is not None
    return prediction.anomaly_map
