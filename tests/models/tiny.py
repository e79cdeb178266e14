"""A backbone of random filters, detectors that are fitted in milliseconds, and images for them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import patchcore_plugin as pp
from patchcore_plugin.data.images import write_png
from patchcore_plugin.models.pipeline import Pipeline
from patchcore_plugin.models.preprocessing import prepare

Image = NDArray[np.uint8]

PATCHES, DIMS = 64, 8
"""Patches of an image, on a grid of 8 x 8, and values of a patch, unless a test changes the recipe."""
extracted: list[int] = []
"""Number of images in each call of the backbone."""
die_after: list[int] = []
"""Number of calls after which the process is killed; empty for never."""


@dataclass(frozen=True, kw_only=True)
class Config:
    channels: int = DIMS
    """Values of a patch."""
    levels: int = 1
    """Feature maps, each half as large as the one before."""


class Tiny:
    """Random filters of 4 x 4 pixels."""

    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self, config: Config) -> None:
        self._levels = config.levels
        generator = torch.Generator().manual_seed(0)
        self._filters = torch.randn(config.channels, 3, 4, 4, generator=generator)

    def __call__(self, images: Tensor) -> list[Tensor]:
        if die_after and len(extracted) == die_after[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        extracted.append(len(images))
        maps = [F.conv2d(images, self._filters.to(images.device), stride=4)]
        for _ in range(self._levels - 1):
            maps.append(F.avg_pool2d(maps[-1], 2))
        return maps

    def to(self, device: Any) -> Tiny:
        return self

    def weight_hash(self) -> str:
        return pp.hash_weights({"filters": self._filters})


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    return [pp.BackboneSpec(name="tiny", config=Config, create=Tiny, summary="random filters")]


class Module:
    """The plugin."""

    patchcore_backbones = staticmethod(patchcore_backbones)


def host(**plugins: object) -> pp.Host:
    """Return a host with the tiny backbone, and further plugins by name."""
    return pp.Host(entry_points=False, extra={"tiny": Module(), **plugins})


def recipe(name: str = "patchcore", **changes: Any) -> pp.Recipe:
    """Return a built-in recipe with the tiny backbone and inputs of 32 x 32."""
    changes = {"backbone": "tiny", "preprocessing": {"size": [32, 32]}, **changes}
    changed = pp.Recipe.load(name)
    for part, change in changes.items():
        changed = changed.change(part, change)
    return changed


def members(*entries: Any, **tables: Any) -> pp.Recipe:
    """Return a recipe of several members; an entry has the tiny backbone unless it names another."""
    complete = [{"recipe": "patchcore", "backbone": "tiny", **entry} for entry in entries]
    return pp.Recipe.from_dict({"name": "several", "preprocessing": {"size": [32, 32]}, **tables, "members": complete})


def detector(name: str = "patchcore", seed: int = 0, **changes: Any) -> pp.Detector:
    """Return a detector for a built-in recipe."""
    return pp.Detector(recipe(name, **changes), seed=seed, device="cpu", host=host())


def ensemble(*entries: Any, seed: int = 0, **tables: Any) -> pp.Detector:
    """Return a detector of several members."""
    return pp.Detector(members(*entries, **tables), seed=seed, device="cpu", host=host())


def pipeline(name: str = "patchcore", **changes: Any) -> Pipeline:
    """Return the components of a built-in recipe."""
    components = host()
    return Pipeline(recipe(name, **changes).resolve(components, 0), components, device="cpu")


def patches(components: Pipeline, images: Sequence[Image]) -> pp.Patches:
    """Return the patches of images."""
    inputs = [prepare(image, components.recipe.preprocessing) for image in images]
    return components.patches(torch.stack(inputs))


def rows(model: pp.Detector, images: Sequence[Image]) -> Tensor:
    """Return the patch embeddings of images, [N, D]."""
    return patches(model.members[0].pipeline, images).grid.flatten(0, 2)


def distances(points: Tensor, bank: Tensor) -> Tensor:
    """Return the distance of each point to its nearest row."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points.double(), bank.double(), compute_mode=exact).amin(dim=1)


def scores(model: pp.Detector, images: Sequence[Any]) -> list[float]:
    """Return the image scores."""
    return [prediction.score for prediction in model.predict(images)]


def map_of(prediction: pp.Prediction) -> NDArray[np.float32]:
    """Return the anomaly map, which the prediction must have."""
    assert prediction.anomaly_map is not None
    return prediction.anomaly_map


def draw(seed: int, *, shift: float = 0.0, defect: bool = False, shape: tuple[int, int] = (40, 48)) -> Image:
    """Return a noisy image of stripes.

    `shift` makes it brighter; the defect is a bright red square around three quarters of width and height.
    """
    rng = np.random.default_rng(seed)
    height, width = shape
    image = rng.normal(120 + shift, 12, (height, width, 3))
    image[:, :: 6 + seed % 3] += 40
    if defect:
        image[5 * height // 8 : 7 * height // 8, 5 * width // 8 : 7 * width // 8] = (250, 20, 20)
    return np.clip(image, 0, 255).astype(np.uint8)


def write(folder: Path, count: int, *, first: int = 0, shift: float = 0.0) -> list[Path]:
    """Write a number of images, with consecutive seeds from `first` on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(first, first + count)]
    for number, path in enumerate(paths, start=first):
        write_png(path, draw(number, shift=shift))
    return paths
