"""The embedding compared with the unfolding of patches, on the same maps; results are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial

import pytest
import torch
from torch import Tensor

from benchmarks._features import efficientnet_maps, images, wide_resnet_maps
from benchmarks.conftest import RunCase
from benchmarks.gate import REFERENCE, Case, Result, embedding_case


def draw_maps(*shapes: tuple[int, int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, *shape, generator=generator) for shape in shapes]


def compute_maps(backbone: str, count: int) -> list[Tensor]:
    return BACKBONES[backbone](images(8, 224, test=True)[:count])


Input = tuple[Callable[[], Sequence[Tensor]], int, int]
"""Maps, stride, and values per patch."""
QUICK: dict[str, Input] = {
    "2 images, as wide_resnet50": (lambda: draw_maps((512, 28, 28), (1024, 14, 14)), 1, 1024),
    "2 images, odd sizes": (lambda: draw_maps((37, 29, 23), (101, 15, 12), (13, 8, 6)), 2, 100),
    "2 images, one value far off": (lambda: [draw_maps((64, 28, 28))[0].index_fill(1, torch.tensor(5), 1e6)], 1, 64),
}
BACKBONES = {"wide_resnet50": wide_resnet_maps, "efficientnet-lite0": efficientnet_maps}
FULL: dict[str, Input] = {
    f"{name} at 224, images: {count}": (partial(compute_maps, name, count), 1, 1024)
    for name in BACKBONES
    for count in (1, 8)
}
WAYS = (REFERENCE, "torch")


@lru_cache(maxsize=1)
def case(name: str) -> Case:
    maps, stride, dims = (QUICK | FULL)[name]
    return embedding_case(maps(), stride, dims)


@cache
def expected_result(name: str) -> Result:
    return case(name).reference()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", QUICK)
def test_quick(run_case: RunCase, name: str, way: str) -> None:
    assert case(name).same(run_case(case(name), way, name, 3), expected_result(name))


@pytest.mark.full
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FULL)
def test_full(run_case: RunCase, name: str, way: str) -> None:
    assert case(name).same(run_case(case(name), way, name, 10), expected_result(name))
