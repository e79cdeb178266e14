"""Images to inputs, and patch scores to maps of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchcore_plugin.models.preprocessing import Geometry, anomaly_map, geometry, map_matrix, mean_anomaly_map, prepare
from patchcore_plugin.models.recipes import Map, Preprocessing
from tests.models import tiny

CROP = Preprocessing(size=(40, 40), crop=(32, 24), keep_aspect=True)


def test_stretched_images_are_inspected_whole() -> None:
    shape = geometry(Preprocessing(size=(32, 48)), (200, 100))
    assert (shape.resized, shape.crop) == ((32, 48), (0, 0, 32, 48))
    assert shape.box() == (0, 0, 200, 100)
    assert shape.to_image(16, 12) == (25.0, 100.0)


def test_crops_keep_the_proportions() -> None:
    shape = geometry(CROP, (80, 160))
    assert (shape.resized, shape.crop) == ((40, 80), (4, 28, 32, 24))
    assert shape.box() == (8, 56, 72, 104)
    assert shape.to_image(0, 0) == (56.0, 8.0)


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 51), ("uint16", 13107), ("float32", 0.2)])
def test_inputs_are_in_0_to_1_whatever_the_type(dtype: str, value: float) -> None:
    image = np.full((50, 30, 3), value, dtype=np.dtype(dtype))
    prepared = prepare(image, CROP)
    assert (prepared.shape, prepared.dtype) == ((3, 32, 24), torch.float32)
    torch.testing.assert_close(prepared, torch.full((3, 32, 24), 0.2))


def test_an_image_of_the_right_size_is_not_resized() -> None:
    image = tiny.draw(0)
    prepared = prepare(image, Preprocessing(size=(40, 48), crop=(20, 48)))
    expected = torch.from_numpy(image[10:30]).permute(2, 0, 1) / 255
    torch.testing.assert_close(prepared, expected)


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    prepared = prepare(stripes, Preprocessing(size=(16, 16)))
    assert float((prepared - 0.5).abs().max()) < 0.05


@pytest.mark.parametrize("shape", [(96, 128), (33, 200), (8, 8)])
def test_maps_have_the_size_of_the_image(shape: tuple[int, int]) -> None:
    grid = np.random.default_rng(0).random((4, 5), dtype=np.float32)
    full = anomaly_map(grid, geometry(Preprocessing(size=(32, 32)), shape), Map())
    assert (full.shape, str(full.dtype)) == (shape, "float32")
    assert grid.min() <= full.min() <= full.max() <= grid.max()


def test_maps_are_zero_outside_the_inspected_part() -> None:
    shape = geometry(CROP, (80, 160))
    full = anomaly_map(np.ones((4, 4), dtype=np.float32), shape, Map())
    top, left, bottom, right = shape.box()
    np.testing.assert_allclose(full[top:bottom, left:right], 1, rtol=1e-5)
    assert full.sum() == pytest.approx((bottom - top) * (right - left), rel=1e-5)


def test_the_highest_patch_is_the_peak_of_the_map() -> None:
    grid = np.zeros((8, 8), dtype=np.float32)
    grid[2, 5] = 1
    full = anomaly_map(grid, geometry(Preprocessing(size=(32, 32)), (80, 160)), Map(sigma=1))
    y, x = np.unravel_index(full.argmax(), full.shape)
    assert 20 <= y < 30
    assert 100 <= x < 120


def test_options_of_the_map() -> None:
    grid = np.random.default_rng(0).random((4, 4), dtype=np.float32)
    shape = geometry(Preprocessing(size=(32, 32)), (32, 32))
    nearest = anomaly_map(grid, shape, Map(sigma=0, upsample="nearest"))
    assert np.array_equal(nearest, grid.repeat(8, axis=0).repeat(8, axis=1))
    assert anomaly_map(grid, shape, Map(sigma=4)).std() < anomaly_map(grid, shape, Map(sigma=0)).std()


def test_the_mean_of_grids_is_the_mean_of_maps() -> None:
    rng = np.random.default_rng(0)
    grids = [rng.random(size, dtype=np.float32) for size in ((4, 4), (8, 8), (5, 3))]
    shape = geometry(CROP, (80, 160))
    expected = np.mean([anomaly_map(grid, shape, Map()) for grid in grids], axis=0)
    np.testing.assert_allclose(mean_anomaly_map(grids, shape, Map()), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [Map(), Map(sigma=0), Map(sigma=1.5, upsample="nearest")])
def test_matrices_of_both_axes_make_the_map(options: Map) -> None:
    grid = np.random.default_rng(0).random((9, 12), dtype=np.float32)
    expected = anomaly_map(grid, Geometry((70, 90), (70, 90), (0, 0, 70, 90)), options)
    product = map_matrix(9, 70, options) @ grid @ map_matrix(12, 90, options).T
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-6)
