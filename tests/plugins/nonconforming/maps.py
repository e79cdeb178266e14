"""Backbones and aggregators that break their contract in a single way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

import patchcore_plugin as pp

from .sound import Aggregator, Backbone, breaks

# Backbones

FORM = "to be a floating tensor [B, C, h, w] on cpu"


@breaks(
    "backbone",
    "maps-have-the-right-form",
    "expected a list of feature maps, found float32 [3, 3, 16, 16] on cpu; return a list, even of a single map",
)
class OneMap(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return super().__call__(images)[0]


@breaks(
    "backbone", "maps-have-the-right-form", f"expected feature map 1 {FORM}, found float32 [3, 3] on cpu; return that"
)
class FlatMap(Backbone):
    def __call__(self, images: Tensor) -> Any:
        first, _ = super().__call__(images)
        return [first, first.mean(dim=(2, 3))]


@breaks(
    "backbone",
    "maps-have-the-right-form",
    "expected feature map 0 to be finite, found NaN or infinity; find where they come from",
)
class LogarithmOfNothing(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return [each.log() for each in super().__call__(images)]


@breaks(
    "backbone",
    "maps-are-finest-first",
    "expected maps finest first, found sizes [(8, 8), (16, 16)]; return them in the order of the network",
)
class CoarsestFirst(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return super().__call__(images)[::-1]


@breaks(
    "backbone",
    "maps-are-in-their-place",
    "expected feature map 0 of an image of 128 x 64 to be no wider than high, found 16 x 32; "
    "keep height and width in the order of the image's",
)
class Transposed(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return [each.transpose(2, 3) for each in super().__call__(images)]


@breaks(
    "backbone",
    "no-gradients-are-kept",
    "expected maps without gradients, found requires_grad in map(s) [0, 1]; compute under torch.no_grad()",
)
class Trained(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return [each * torch.ones(1, requires_grad=True) for each in super().__call__(images)]


@breaks(
    "backbone",
    "normalisation-can-be-used",
    "expected std to be three finite numbers above 0, found (1.0, 0.0, 1.0); give the values of R, G and B as a tuple",
)
class NoDeviation(Backbone):
    std = (1.0, 0.0, 1.0)


@breaks(
    "backbone",
    "normalisation-can-be-used",
    "expected mean to be three finite numbers, found 0.5; give the values of R, G and B as a tuple",
)
class OneMean(Backbone):
    mean = 0.5


@breaks(
    "backbone",
    "weights-are-told-by-a-hash",
    "expected weight_hash() to be a hex digest of 32 digits or more, found 'v1'; use patchcore_plugin.hash_weights",
)
class NoHash(Backbone):
    def weight_hash(self) -> str:
        return "v1"


@breaks(
    "backbone",
    "weights-are-told-by-a-hash",
    "expected one hash for two that are made alike, found 00000001... and 00000002...; "
    "use patchcore_plugin.hash_weights",
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
    "moving-keeps-it-whole",
    "expected equal maps after to(), found different ones; move all weights and change nothing else",
)
class LosesPrecision(Backbone):
    dtype = torch.float64

    def __call__(self, images: Tensor) -> Any:
        return [each.to(self.dtype) for each in super().__call__(images)]

    def to(self, device: Any) -> Any:
        self.dtype = torch.float64 if self.dtype == torch.float32 else torch.float32
        return self


@breaks(
    "backbone",
    "other-sizes-work",
    "expected no exception, found RuntimeError: 72 is not 96; see <place>",
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
    "expected a PatchcoreError for images of shape [3, 64, 64], found an answer; "
    "raise a TensorError that says what was expected and what came",
)
class TakesAnything(Backbone):
    def __call__(self, images: Tensor) -> Any:
        return [F.avg_pool2d(images, 4)[None]] if images.ndim == 3 else [F.avg_pool2d(images, 4)]


# Aggregators

WHOLE = "bring the other maps to the first one's grid, and order the values [B, h, w, D]"


@breaks(
    "aggregator",
    "patches-have-the-right-form",
    "expected Patches, found float32 [3, 9, 14, 32] on cpu; return Patches(grid=...)",
)
class NoPatches(Aggregator):
    def __call__(self, maps: Any) -> Any:
        return super().__call__(maps).grid


@breaks(
    "aggregator",
    "patches-have-the-right-form",
    "expected Patches.grid in float32, found float64 [3, 9, 14, 32] on cpu; convert it by .float()",
)
class Doubled(Aggregator):
    def __call__(self, maps: Any) -> Any:
        return pp.Patches(grid=super().__call__(maps).grid.double())


@breaks(
    "aggregator",
    "patches-have-the-right-form",
    "expected patches on the grid of the first map, 9 x 14, or on every s-th of its positions, found 32 x 9; " + WHOLE,
)
class ChannelsFirst(Aggregator):
    def __call__(self, maps: Any) -> Any:
        return pp.Patches(grid=super().__call__(maps).grid.permute(0, 3, 1, 2))


@breaks(
    "aggregator",
    "patches-have-the-right-form",
    "expected Patches.descriptors to be a floating tensor [B, G] on cpu, found float32 [1, 32] on cpu; return that",
)
class OneDescriptor(Aggregator):
    def __call__(self, maps: Any) -> Any:
        grid = super().__call__(maps).grid
        return pp.Patches(grid=grid, descriptors=grid.mean(dim=(0, 1, 2))[None])


@breaks(
    "aggregator",
    "patches-are-in-their-place",
    "expected patches to change at the lower left, where the maps do, found that they change more at the upper right; "
    "permute [B, D, h, w] to [B, h, w, D] rather than reshape it",
)
class UpsideDown(Aggregator):
    def __call__(self, maps: Any) -> Any:
        return pp.Patches(grid=super().__call__(maps).grid.flip(1, 2))


@breaks(
    "aggregator",
    "levels-tell-maps-apart",
    "expected at most 2 levels, one for each map, found [16, 8, 8]; leave None",
)
class ThreeLevels(Aggregator):
    def __call__(self, maps: Any) -> Any:
        return replace(super().__call__(maps), levels=(16, 8, 8))


@breaks(
    "aggregator",
    "levels-tell-maps-apart",
    "expected map 0 to change values [0, 1, 2] only, as levels [3, 5] say, found that it changes [5, 6, 7]; "
    "count the values of each map in their order, or leave None where maps are mixed",
)
class LastLevelFirst(Aggregator):
    def __call__(self, maps: Any) -> Any:
        first = [each[:, :count] for each, count in zip(maps, (3, 5), strict=False)]
        return replace(super().__call__(first[::-1]), levels=(3, 5)) if len(maps) == 2 else super().__call__(maps)


@breaks(
    "aggregator",
    "any-number-of-maps-works",
    "expected no exception, found ValueError: not enough values to unpack (expected 2, got 1); see <place>",
)
class TwoMaps(Aggregator):
    def __call__(self, maps: Any) -> Any:
        _first, _second = maps or [None, None]
        return super().__call__(maps)


@breaks(
    "aggregator",
    "maps-of-one-position-work",
    "expected no exception, found IndexError: no neighbour; see <place>",
)
class NeedsNeighbours(Aggregator):
    def __call__(self, maps: Any) -> Any:
        if maps and maps[0].shape[2] == 1:
            raise IndexError("no neighbour")
        return super().__call__(maps)


@breaks(
    "aggregator",
    "no-maps-are-refused",
    "expected a PatchcoreError for an empty list of maps, found IndexError: list index out of range; "
    "raise a TensorError that says what was expected and what came",
)
class TakesTheFirst(Aggregator):
    def __call__(self, maps: Any) -> Any:
        _ = maps[0]
        return super().__call__(maps)
