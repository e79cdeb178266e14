"""A backbone so small that a fit takes no time, and which says how often it was called; and images for it."""

from __future__ import annotations

import os
import signal
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

extracted: list[int] = []
"""How many images came in each call."""
die_after: list[int] = []
"""After so many calls, if there is a number, the process ends like one that is killed."""


@dataclass(frozen=True, kw_only=True)
class Config:
    channels: int = 8
    """Values of a patch."""
    levels: int = 1
    """Feature maps, each half as large as the one before."""


class Tiny:
    """Random filters of 4 x 4 pixels."""

    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self, config: Config) -> None:
        self._levels = config.levels
        draws = torch.Generator().manual_seed(0)
        self._filters = torch.randn(config.channels, 3, 4, 4, generator=draws)

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
    """What a host takes for a plugin."""

    patchcore_backbones = staticmethod(patchcore_backbones)


def host() -> pp.Host:
    return pp.Host(entry_points=False, extra={"tiny": Module()})


def recipe(name: str = "patchcore", **changes: Any) -> pp.Recipe:
    changes = {"backbone": "tiny", "preprocessing": {"size": [32, 32]}, **changes}
    found = pp.Recipe.load(name)
    for part, change in changes.items():
        found = found.change(part, change)
    return found


def detector(name: str = "patchcore", **changes: Any) -> pp.Detector:
    """Return a detector with 64 patches an image."""
    return pp.Detector(recipe(name, **changes), device="cpu", host=host())


def draw(seed: int, *, shift: float = 0.0) -> NDArray[np.uint8]:
    """Return a noisy image of stripes, 40 x 48; `shift` makes it another product."""
    rng = np.random.default_rng(seed)
    image = rng.normal(120 + shift, 12, (40, 48, 3))
    image[:, :: 6 + seed % 3] += 40
    return np.clip(image, 0, 255).astype(np.uint8)


def write(folder: Path, count: int, *, first: int = 0, shift: float = 0.0) -> list[Path]:
    """Write so many images, from that number on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(first, first + count)]
    for number, path in enumerate(paths, start=first):
        write_png(path, draw(number, shift=shift))
    return paths
