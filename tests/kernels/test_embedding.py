"""The embeddings against the unfold formulation and plain torch operations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from patchcore_plugin.kernels.embedding import adaptive_embedding, average_embedding
from patchcore_plugin.kernels.embedding.reference import unfold_embedding
from tests.kernels.vectors import normal


@pytest.mark.parametrize(
    ("shapes", "patch_size", "stride", "dims"),
    [
        ([(2, 512, 14, 14), (2, 1024, 7, 7)], 3, 1, 1024),
        ([(2, 40, 9, 7), (2, 112, 5, 4), (2, 30, 3, 2)], 3, 1, 1024),
        ([(1, 24, 12, 11), (1, 48, 6, 6)], 5, 2, 100),
        ([(1, 2048, 5, 5)], 3, 1, 1024),
        ([(1, 3, 1, 1), (1, 5, 1, 1)], 3, 1, 16),
        ([(1, 9, 6, 6), (1, 13, 3, 3), (1, 20, 2, 2), (1, 31, 1, 1)], 3, 1, 10),
        ([(1, 6, 5, 4), (1, 300, 3, 2)], 3, 1, 7),
        ([(2, 64, 7, 6), (2, 100, 4, 3), (2, 50, 2, 2)], 3, 2, 1),
    ],
)
def test_adaptive_equals_unfold(
    shapes: list[tuple[int, int, int, int]], patch_size: int, stride: int, dims: int
) -> None:
    maps = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    result = adaptive_embedding(maps, patch_size, stride, dims, "bilinear")
    torch.testing.assert_close(result, unfold_embedding(maps, patch_size, stride, dims), atol=1e-5, rtol=0)
    assert result.is_contiguous()


def test_adaptive_upsamples_with_the_given_mode() -> None:
    fine, coarse = normal(1, 8, 6, 6), normal(1, 8, 3, 3, seed=1)
    result = adaptive_embedding([fine, coarse], 1, 1, 8, "nearest")
    pairs = coarse.unflatten(1, (4, 2)).mean(dim=2)
    expected = F.interpolate(pairs, size=(6, 6), mode="nearest").permute(0, 2, 3, 1)
    torch.testing.assert_close(result[..., 4:], expected)


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_average_is_pool_upsample_concatenate(upsample: str) -> None:
    fine, coarse = normal(2, 5, 13, 9), normal(2, 7, 7, 5, seed=1)
    align = False if upsample == "bilinear" else None
    expected = torch.cat(
        [
            F.avg_pool2d(fine, 3, 1, 1),
            F.interpolate(F.avg_pool2d(coarse, 3, 1, 1), size=(13, 9), mode=upsample, align_corners=align),
        ],
        dim=1,
    ).permute(0, 2, 3, 1)
    assert torch.equal(average_embedding([fine, coarse], 3, 1, upsample), expected)


def test_average_counts_the_padding() -> None:
    result = average_embedding([torch.ones(1, 1, 4, 4)], 3, 1, "bilinear")
    assert result[0, 0, 0, 0] == pytest.approx(4 / 9)
    assert result[0, 1, 1, 0] == pytest.approx(1)


@pytest.mark.parametrize("dims", [None, 64])
def test_layout_of_the_maps_changes_nothing(dims: int | None) -> None:
    def embed(maps: list[Tensor]) -> Tensor:
        if dims is None:
            return average_embedding(maps, 3, 1, "bilinear")
        return adaptive_embedding(maps, 3, 1, dims, "bilinear")

    maps = [normal(2, 40, 8, 8), normal(2, 56, 4, 4, seed=1)]
    before = [features.clone() for features in maps]
    assert torch.equal(embed([features.to(memory_format=torch.channels_last) for features in maps]), embed(maps))
    assert all(torch.equal(features, copy) for features, copy in zip(maps, before, strict=True))


MEASURE = """
import re, sys, torch
from pathlib import Path
from patchcore_plugin.kernels.embedding import adaptive_embedding
from patchcore_plugin.kernels.embedding.reference import unfold_embedding

maps = [torch.randn(8, 512, 28, 28), torch.randn(8, 1024, 14, 14)]
maps = [features.to(memory_format=torch.channels_last) for features in maps]  # the layout of backbones
embed = {"unfold": lambda m: unfold_embedding(m, 3, 1, 1024), "linear": lambda m: adaptive_embedding(m, 3, 1, 1024, "bilinear")}[sys.argv[1]]
def kilobytes(field):
    return int(re.search(field + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

embed([features[:1, :, :4, :4] for features in maps])
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading torch
before = kilobytes("VmRSS")
embed(maps)
print(kilobytes("VmHWM") - before)
"""  # noqa: E501


@pytest.mark.slow
def test_adaptive_takes_less_than_a_tenth_of_the_memory() -> None:
    if not Path("/proc/self/status").is_file():
        pytest.skip("peak memory is read from Linux's accounting")

    def peak(which: str) -> int:
        ended = subprocess.run(
            [sys.executable, "-c", MEASURE, which], capture_output=True, text=True, check=True, timeout=300
        )
        return int(ended.stdout)

    unfold, linear = peak("unfold"), peak("linear")
    assert 8 * 28 * 28 * 1024 * 4 / 1024 < linear < unfold / 10


def test_average_uses_the_chosen_channels() -> None:
    maps = [normal(2, 5, 6, 6), normal(2, 7, 3, 3, seed=1)]
    every = average_embedding(maps, 3, 1, "bilinear")
    channels = [torch.tensor([3, 0]), torch.tensor([], dtype=torch.int64)]
    assert torch.equal(average_embedding(maps, 3, 1, "bilinear", channels), every[..., [3, 0]])
