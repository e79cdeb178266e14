"""Aggregators that break their contract in a single way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import patchcore_plugin as pp

from .sound import Aggregator, breaks


@breaks(
    "aggregator",
    "patches-have-the-right-form",
    "float32 [3, 9, 14, 32] on cpu",
)
class NoPatches(Aggregator):
    def __call__(self, maps: Any) -> Any:
        return super().__call__(maps).grid


@breaks(
    "aggregator",
    "patches-have-the-right-form",
    "float64 [3, 9, 14, 32] on cpu",
)
class Doubled(Aggregator):
    def __call__(self, maps: Any) -> Any:
        return pp.Patches(grid=super().__call__(maps).grid.double())


@breaks(
    "aggregator",
    "patches-have-the-right-form",
    "32 x 9",
)
class ChannelsFirst(Aggregator):
    def __call__(self, maps: Any) -> Any:
        return pp.Patches(grid=super().__call__(maps).grid.permute(0, 3, 1, 2))


@breaks(
    "aggregator",
    "patches-have-the-right-form",
    "float32 [1, 32] on cpu",
)
class OneDescriptor(Aggregator):
    def __call__(self, maps: Any) -> Any:
        grid = super().__call__(maps).grid
        return pp.Patches(grid=grid, descriptors=grid.mean(dim=(0, 1, 2))[None])


@breaks(
    "aggregator",
    "patches-keep-orientation",
    "upper right",
)
class UpsideDown(Aggregator):
    def __call__(self, maps: Any) -> Any:
        return pp.Patches(grid=super().__call__(maps).grid.flip(1, 2))


@breaks(
    "aggregator",
    "levels-match-maps",
    "[16, 8, 8]",
)
class ThreeLevels(Aggregator):
    def __call__(self, maps: Any) -> Any:
        return replace(super().__call__(maps), levels=(16, 8, 8))


@breaks(
    "aggregator",
    "levels-match-maps",
    "changes of [5, 6, 7]",
)
class LastLevelFirst(Aggregator):
    def __call__(self, maps: Any) -> Any:
        first = [each[:, :count] for each, count in zip(maps, (3, 5), strict=False)]
        return replace(super().__call__(first[::-1]), levels=(3, 5)) if len(maps) == 2 else super().__call__(maps)


@breaks(
    "aggregator",
    "any-number-of-maps-works",
    "ValueError: not enough values to unpack (expected 2, got 1)",
)
class TwoMaps(Aggregator):
    def __call__(self, maps: Any) -> Any:
        _first, _second = maps or [None, None]
        return super().__call__(maps)


@breaks(
    "aggregator",
    "maps-of-one-position-work",
    "IndexError: no neighbour",
)
class NeedsNeighbours(Aggregator):
    def __call__(self, maps: Any) -> Any:
        if maps and maps[0].shape[2] == 1:
            raise IndexError("no neighbour")
        return super().__call__(maps)


@breaks(
    "aggregator",
    "no-maps-are-refused",
    "IndexError: list index out of range",
)
class TakesTheFirst(Aggregator):
    def __call__(self, maps: Any) -> Any:
        _ = maps[0]
        return super().__call__(maps)
