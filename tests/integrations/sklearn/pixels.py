"""A plugin without weights, for tests that fit hundreds of times, and its images."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

import patchcore_plugin as pp
from patchcore_plugin.integrations.sklearn import PatchCoreDetector
from tests.conftest import draw

Array = npt.NDArray[Any]
GOOD = np.stack([draw(seed) for seed in range(12)])
BAD = np.stack([draw(seed, defect=True) for seed in range(50, 54)])


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    cell: int = 2


class Pixels:
    """A backbone without weights: means of small cells."""

    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self, config: PixelsConfig) -> None:
        self.cell = config.cell

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [F.avg_pool2d(images, self.cell)]

    def to(self, device: object) -> Pixels:
        return self

    def weight_hash(self) -> str:
        return "none"


class WholeImage:
    """A scorer without maps: the brightest patch."""

    def fit(self, bank: pp.MemoryBank) -> None:
        pass

    def __call__(self, patches: pp.Patches) -> pp.Scores:
        return pp.Scores(image=patches.grid.amax(dim=(1, 2, 3)))

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, bank: pp.MemoryBank, state: object) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    pass


def create_whole_image(config: NoOptions) -> WholeImage:
    return WholeImage()


@pp.hookimpl
def patchcore_scorers() -> list[pp.ScorerSpec]:
    return [pp.ScorerSpec(name="whole-image", config=NoOptions, create=create_whole_image, summary="no maps")]


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    return [pp.BackboneSpec(name="pixels", config=PixelsConfig, create=Pixels, summary="means of cells")]


EXTRA = {"pixels": SimpleNamespace(patchcore_backbones=patchcore_backbones, patchcore_scorers=patchcore_scorers)}


def pixel_detector(**parameters: Any) -> PatchCoreDetector:
    base = {"backbone": "pixels", "preprocessing": {"size": (24, 32)}, "device": "cpu"}
    return PatchCoreDetector(**{**base, **parameters})
