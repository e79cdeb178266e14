"""Components that meet their contract, and the register of those that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

import patchcore_plugin as pp
from patchcore_plugin.plugins.specs import ROLES


@dataclass(frozen=True, kw_only=True)
class Config:
    step: Annotated[int, Ge(1)] = 2
    """Something to choose."""


class Backbone:
    mean: Any = (0.5, 0.5, 0.5)
    std: Any = (0.2, 0.2, 0.2)

    def __init__(self, config: Any) -> None:
        self.step = config.step

    def __call__(self, images: Tensor) -> Any:
        if images.ndim != 4 or images.shape[1] != 3:
            raise pp.TensorError(f"expected images [B, 3, H, W], got {list(images.shape)}")
        return [F.avg_pool2d(images, 4), F.avg_pool2d(images, 8)]

    def to(self, device: Any) -> Any:
        return self

    def weight_hash(self) -> Any:
        return pp.hash_weights({})


class Aggregator:
    def __init__(self, config: Any) -> None:
        self.step = config.step

    def __call__(self, maps: Any) -> Any:
        if not maps:
            raise pp.TensorError("expected at least one map")
        size = maps[0].shape[2:]
        return pp.Patches(grid=torch.cat([F.interpolate(each, size) for each in maps], dim=1).permute(0, 2, 3, 1))


class Sampler:
    def __init__(self, config: Any) -> None:
        self.step = config.step

    def __call__(self, vectors: Tensor) -> Any:
        if vectors.ndim != 2 or len(vectors) == 0:
            raise pp.TensorError(f"expected vectors [N, D], got {list(vectors.shape)}")
        return vectors[:, 0].argsort(stable=True)[:: self.step]


class Scorer:
    vectors: Tensor | None = None

    def __init__(self, config: Any) -> None:
        self.step = config.step

    def fit(self, bank: pp.MemoryBank) -> None:
        self.vectors, self.scale = bank.vectors, bank.vectors.abs().mean()

    def state(self) -> Any:
        return {"scale": self.scale}

    def restore(self, bank: pp.MemoryBank, state: Mapping[str, Tensor]) -> None:
        self.vectors, self.scale = bank.vectors, state["scale"]

    def __call__(self, patches: pp.Patches) -> Any:
        if self.vectors is None:
            raise pp.TensorError("call fit or restore before scoring")
        if patches.grid.shape[-1] != self.vectors.shape[1]:
            raise pp.TensorError(f"expected patches of {self.vectors.shape[1]} values, got {patches.grid.shape[-1]}")
        return self.scores(patches.grid[..., None, :] - self.vectors)

    def scores(self, differences: Tensor) -> pp.Scores:
        distance, row = differences.norm(dim=-1).div(self.scale).min(dim=-1)
        return pp.Scores(image=distance.flatten(1).amax(dim=1), map=distance, nearest=row)


SOUND: dict[str, Any] = {"backbone": Backbone, "aggregator": Aggregator, "sampler": Sampler, "scorer": Scorer}


def record(role: str, create: Callable[[Any], Any], **fields: Any) -> pp.ComponentSpec:
    fields = {"name": "broken", "config": Config, "create": create, "summary": "broken", **fields}
    return ROLES[role](**fields)


def plugin(spec: pp.ComponentSpec) -> object:
    """Return a plugin that provides a component."""

    def hook() -> list[pp.ComponentSpec]:
        return [spec]

    name = f"patchcore_{spec.role}s"
    return SimpleNamespace(**{name: pp.hookimpl(hook, specname=name)})


@dataclass(frozen=True)
class Broken:
    """A component, the check that it must fail, and a key fact in the message of the check."""

    spec: pp.ComponentSpec
    title: str
    fact: str

    def __str__(self) -> str:
        return f"{self.spec.role}-{self.title}"


BROKEN: list[Broken] = []


def breaks(role: str, title: str, fact: str, **fields: Any) -> Callable[[Any], Any]:
    """Return a decorator that registers a class or function that creates a component as failing a check."""

    def register(create: Any) -> Any:
        BROKEN.append(Broken(record(role, create, **fields), title, fact))
        return create

    return register
