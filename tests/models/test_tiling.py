"""Tiles of a large image: one grid, no seams, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.errors import TensorError
from patchcore_plugin.models.tiling import tile_patches


def cells(images: Tensor) -> pp.Patches:
    """Return patches that depend on their 8 x 8 pixels only."""
    grid = F.avg_pool2d(images, 8).permute(0, 2, 3, 1)
    return pp.Patches(grid, images.mean(dim=(2, 3)), (3,))


def blur(images: Tensor) -> pp.Patches:
    """Return patches that depend on 24 pixels around them, with zeros beyond the border."""
    wide = F.avg_pool2d(images, 49, stride=1, padding=24)
    return pp.Patches(F.avg_pool2d(wide, 8).permute(0, 2, 3, 1))


def draw(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("overlap", [0, 8, 24, 40])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 64), (120, 200), (72, 64)])
def test_patches_without_context_are_those_of_the_whole_image(height: int, width: int, overlap: int) -> None:
    images = draw(height, width)
    patches = tile_patches(images, (64, 64), overlap, cells)
    assert patches.levels == (3,)
    torch.testing.assert_close(patches.grid, cells(images).grid)


def test_tiles_have_the_given_size_and_cover_the_image() -> None:
    shapes = []

    def record(images: Tensor) -> pp.Patches:
        shapes.append(tuple(images.shape))
        return cells(images)

    tile_patches(draw(200, 136), (72, 64), 16, record)
    assert set(shapes) == {(2, 3, 72, 64)}
    assert len(shapes) == 4 * 3


@pytest.mark.slow
def test_overlap_leaves_no_seams() -> None:
    flat = torch.ones(1, 3, 160, 160)
    inside = blur(flat).grid[0, 4:-4, 4:-4, 0]
    assert inside.std() == 0
    # Beyond the border of a tile are zeros: without overlap, they show in an image of one colour.
    hard = tile_patches(flat, (80, 80), 0, blur).grid[0, 4:-4, 4:-4, 0]
    soft = tile_patches(flat, (80, 80), 56, blur).grid[0, 4:-4, 4:-4, 0]

    def largest_step(grid: Tensor) -> float:
        return float(max(grid.diff(dim=0).abs().max(), grid.diff(dim=1).abs().max()))

    assert largest_step(hard) > 0.1
    assert largest_step(soft) < 0.4 * largest_step(hard)
    assert float((soft - 1).abs().mean()) < 0.3 * float((hard - 1).abs().mean())


def test_descriptors_are_means_over_tiles() -> None:
    images = draw(64, 128)
    patches = tile_patches(images, (64, 64), 0, cells)
    assert patches.descriptors is not None
    torch.testing.assert_close(patches.descriptors, images.mean(dim=(2, 3)))


@pytest.mark.parametrize(("size", "tile"), [((128, 128), (60, 64)), ((130, 128), (64, 64))])
def test_tiles_without_a_common_grid_are_refused(size: tuple[int, int], tile: tuple[int, int]) -> None:
    with pytest.raises(TensorError, match="no common grid"):
        tile_patches(draw(*size), tile, 0, cells)


@pytest.mark.slow
def test_a_large_image_with_a_small_defect(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = [rng.integers(100, 120, (256, 384, 3), dtype=np.uint8) for _ in range(6)]
    bad = good[0].copy()
    bad[40:52, 300:312] = 220
    detector = pp.Detector.from_recipe(
        "patchcore-1",
        device="cpu",
        backbone="efficientnet-lite0",
        preprocessing={"size": [256, 384], "tile": [128, 128], "overlap": 32},
    ).fit(good)
    assert detector.bank.origin[:, 1].max() > 16  # rows of the whole image's grid, not of a tile's
    assert detector.bank.origin[:, 2].max() > 32
    detector.save(tmp_path / "tiles.safetensors")
    (prediction,) = pp.Detector.load(tmp_path / "tiles.safetensors", device="cpu").predict([bad])
    assert prediction.is_anomalous
    assert prediction.anomaly_map is not None
    assert prediction.nearest is not None
    row, column = np.unravel_index(int(prediction.anomaly_map.argmax()), prediction.anomaly_map.shape)
    assert 30 <= row <= 62
    assert 290 <= column <= 322
    assert detector.predict([bad])[0].score == prediction.score
