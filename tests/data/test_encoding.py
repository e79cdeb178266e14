"""Small JPEG and PNG files in memory."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from patchcore_plugin.data.encoding import downscale, encode_jpeg, encode_png
from patchcore_plugin.errors import ImageError
from tests.data.image_files import RGB, Array


def decode(file: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(
    ("shape", "expected"), [((600, 1200, 3), (150, 300, 3)), ((1, 5000), (1, 300)), ((300, 20, 1), (300, 20, 1))]
)
def test_longer_side_is_limited_and_small_images_are_unchanged(shape: tuple[int, ...], expected: object) -> None:
    assert downscale(np.zeros(shape, np.uint16), 300).shape == expected


@pytest.mark.parametrize(
    "pixels", [RGB, RGB[..., :1], RGB[..., 0].astype(np.uint16) * 257, np.dstack([RGB, RGB[..., :1]])]
)
@pytest.mark.parametrize("compression", [None, 1])
def test_png_keeps_every_pixel(pixels: Array, compression: int | None) -> None:
    decoded = np.atleast_3d(decode(encode_png(pixels, compression)))
    order = [2, 1, 0, 3][: decoded.shape[2]] if decoded.shape[2] > 1 else [0]
    np.testing.assert_array_equal(decoded[..., order], np.atleast_3d(pixels))


def test_jpeg_keeps_colours_in_order() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert decode(encode_jpeg(red))[0, 0].tolist() == pytest.approx([0, 0, 255], abs=3)
    assert len(encode_jpeg(RGB, 20)) < len(encode_jpeg(RGB, 95))


@pytest.mark.filterwarnings("ignore")
def test_too_large_image_is_refused() -> None:
    with pytest.raises(ImageError, match="smaller"):
        encode_jpeg(np.zeros((1, 70_000, 3), np.uint8))
