"""Backbones that break their contract in a single way."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .sound import Backbone, breaks


@breaks(
    "backbone",
    "maps-have-the-right-form",
    "float32 [3, 3, 16, 16] on cpu",
)
class OneMap(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return super().__call__(images)[0]


@breaks("backbone", "maps-have-the-right-form", "feature map 1")
class FlatMap(Backbone):
    def __call__(self, images: Tensor) -> Any:
        first, _ = super().__call__(images)
        return [first, first.mean(dim=(2, 3))]


@breaks(
    "backbone",
    "maps-have-the-right-form",
    "NaN or infinity",
)
class LogarithmOfNothing(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return [features.log() for features in super().__call__(images)]


@breaks(
    "backbone",
    "maps-are-finest-first",
    "sizes [(8, 8), (16, 16)]",
)
class CoarsestFirst(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return super().__call__(images)[::-1]


@breaks(
    "backbone",
    "maps-keep-orientation",
    "16 x 32",
)
class Transposed(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return [features.transpose(2, 3) for features in super().__call__(images)]


@breaks(
    "backbone",
    "maps-have-no-gradients",
    "requires_grad in map(s) [0, 1]",
)
class Trained(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return [features * torch.ones(1, requires_grad=True) for features in super().__call__(images)]


@breaks(
    "backbone",
    "normalisation-is-valid",
    "(1.0, 0.0, 1.0)",
)
class NoDeviation(Backbone):
    std = (1.0, 0.0, 1.0)


@breaks(
    "backbone",
    "normalisation-is-valid",
    "0.5",
)
class OneMean(Backbone):
    mean = 0.5


@breaks(
    "backbone",
    "weight-hash-is-stable",
    "'v1'",
)
class NoHash(Backbone):
    def weight_hash(self) -> str:
        return "v1"


@breaks(
    "backbone",
    "weight-hash-is-stable",
    "00000001... and 00000002...",
)
class HashOfTheObject(Backbone):
    made: ClassVar[int] = 0

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        HashOfTheObject.made += 1
        self.number = HashOfTheObject.made

    def weight_hash(self) -> str:
        return f"{self.number:08}" * 8


@breaks(
    "backbone",
    "moving-keeps-maps",
    "different ones",
)
class LosesPrecision(Backbone):
    dtype = torch.float64

    def __call__(self, images: Tensor) -> Any:
        return [features.to(self.dtype) for features in super().__call__(images)]

    def to(self, device: Any) -> Any:
        self.dtype = torch.float64 if self.dtype == torch.float32 else torch.float32
        return self


@breaks(
    "backbone",
    "other-sizes-work",
    "RuntimeError: 72 is not 96",
)
class SquaresOnly(Backbone):
    def __call__(self, images: Tensor) -> Any:
        height, width = images.shape[-2:]
        if height != width:
            raise RuntimeError(f"{height} is not {width}")
        return super().__call__(images)


@breaks(
    "backbone",
    "wrong-images-are-refused",
    "a result",
)
class TakesAnything(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return [F.avg_pool2d(images, 4)[None]] if images.ndim == 3 else [F.avg_pool2d(images, 4)]
