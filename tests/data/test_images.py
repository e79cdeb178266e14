"""Arrays as images: conversion, scale, and writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchcore_plugin.data.images import as_image, read_image, to_unit, write_png
from patchcore_plugin.errors import ImageError
from tests.data.image_files import RGB, Array, draw, encode, write_and_read


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_every_supported_array_is_converted(dtype: type[np.generic], channels: tuple[int, ...]) -> None:
    given = np.random.default_rng(0).random((5, 4, *channels))
    white = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    array = np.rint(given * white).astype(dtype) if dtype is not np.bool_ else given > 0.5
    array = array if np.issubdtype(dtype, np.integer) or dtype is np.bool_ else given.astype(dtype)
    copy = array.copy()
    image = as_image(array)
    np.testing.assert_array_equal(array, copy)
    assert image.shape == (5, 4, 3)
    assert image.flags.c_contiguous
    expected_type = {np.uint8: np.uint8, np.uint16: np.uint16, np.bool_: np.uint8}.get(dtype, np.float32)
    assert image.dtype == expected_type
    unit = array.astype(np.float64) / white
    unit = np.atleast_3d(unit)
    if channels == (4,):
        unit = unit[..., :3] * unit[..., 3:] + 1 - unit[..., 3:]
    scale = {np.uint8: 255, np.uint16: 65535}.get(image.dtype.type, 1)
    expected = np.broadcast_to(unit, (5, 4, 3)) * scale
    np.testing.assert_allclose(image, expected, rtol=0, atol=0.5 + 1e-9 if scale > 1 else 1e-6)


def test_strided_and_read_only_arrays_are_converted() -> None:
    base = RGB.copy()
    base.flags.writeable = False
    flipped = base[::-1, ::2, ::-1]
    np.testing.assert_array_equal(as_image(flipped), RGB[::-1, ::2, ::-1])
    np.testing.assert_array_equal(to_unit(as_image(base)), RGB.astype(np.float32) / 255)


@pytest.mark.parametrize("bad", [-0.01, 1.01, np.nan, np.inf, -np.inf, 255.0])
def test_floats_outside_of_0_to_1_are_refused(bad: float) -> None:
    array = np.full((2, 2, 3), 0.5)
    array[1, 1, 1] = bad
    with pytest.raises(ImageError, match=r"in 0\.\.1"):
        as_image(array)


@pytest.mark.parametrize("shape", [(), (3,), (3, 0), (0, 3, 3), (2, 2, 2), (2, 2, 5), (1, 2, 2, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="shape"):
        as_image(np.zeros(shape, np.uint8))


def test_channels_first_gets_a_hint() -> None:
    with pytest.raises(ImageError, match="channels last"):
        as_image(np.zeros((3, 20, 20), np.uint8))


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint32, np.complex64, object, "U1"])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(ImageError, match="not supported: pass uint8, uint16 or float"):
        as_image(np.ones((2, 2)).astype(dtype))


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_black_is_0_and_white_is_1_at_every_depth(dtype: type[np.generic], white: int) -> None:
    image = np.array([[[0, white, white / 5]]]).astype(dtype)
    copy = image.copy()
    unit = to_unit(image)
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(unit, np.array([[[0, 1, 0.2]]], np.float32))
    unit[:] = 7
    np.testing.assert_array_equal(image, copy)


def test_other_dtypes_cannot_be_scaled() -> None:
    with pytest.raises(ImageError, match="float64"):
        to_unit(np.zeros((1, 1, 3)))


# Files


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 4, 3), (5, 4, 1), (5, 4)])
def test_image_survives_writing_and_reading(tmp_path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)  # type: ignore[type-var]
    write_png(tmp_path / "out.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), as_image(image))
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_pillow_reads_the_same_colours(tmp_path: Path) -> None:
    write_png(tmp_path / "out.png", RGB)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), RGB)


@pytest.mark.parametrize(
    "image", [np.zeros((2, 2), np.float32), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_unsupported_array_is_not_written(tmp_path: Path, image: Array) -> None:
    with pytest.raises(ImageError, match=r"out\.png: cannot write"):
        write_png(tmp_path / "out.png", image)


def test_failed_write_leaves_the_folder_unchanged(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    with pytest.raises(ImageError, match=r"folder: cannot be written \("):
        write_png(tmp_path / "folder", RGB)
    with pytest.raises(ImageError, match=r"out\.png: cannot be written \(No such file"):
        write_png(tmp_path / "gone" / "out.png", RGB)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "file"]


def test_content_decides_the_format(tmp_path: Path) -> None:
    np.testing.assert_array_equal(write_and_read(tmp_path, encode(draw("RGB"), "PNG"), "a.jpg"), RGB)


@pytest.mark.parametrize("name", ["größe 零件.png", "эталон.jpg", "a b'c.webp"])
def test_names_of_any_language(tmp_path: Path, name: str) -> None:
    image = write_and_read(tmp_path, encode(draw("RGB"), "PNG"), name)
    np.testing.assert_array_equal(image, RGB)
    write_png(tmp_path / name, image)
    np.testing.assert_array_equal(read_image(str(tmp_path / name)), RGB)
