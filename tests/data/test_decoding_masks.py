"""Masks of every format and mode: pixels that are not black are defective."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchcore_plugin.data.datasets import load_categories
from patchcore_plugin.data.images import read_image, read_mask
from tests import real_images
from tests.data.datasets.dataset_files import draw
from tests.data.image_files import GREY, H, W, encode, png, tiff

MASKS = {
    "1-bit": Image.fromarray(GREY > 100),
    "grey": Image.fromarray(np.where(GREY > 100, 255, 0).astype(np.uint8)),
    "faint grey": Image.fromarray((GREY > 100).astype(np.uint8)),
    "16 bit": Image.fromarray((GREY > 100).astype(np.uint16)),
    "RGB, one colour": Image.fromarray(np.dstack([GREY * 0, GREY * 0, (GREY > 100).astype(np.uint8)])),
    "opaque": Image.fromarray(np.dstack([*[np.uint8(255) * (GREY > 100)] * 3, np.full_like(GREY, 255)])),
    "transparent": Image.fromarray(np.dstack([np.full((H, W, 3), 9, np.uint8), np.uint8(1) * (GREY > 100)])),
}


# The TIFF library multiplies colours of 8 bits by a faint alpha, which makes them black.
@pytest.mark.parametrize(
    ("kind", "format_"),
    [(k, f) for k in MASKS for f in ("PNG", "TIFF") if (k, f) != ("transparent", "TIFF")],
)
def test_every_mode(tmp_path: Path, kind: str, format_: str) -> None:
    path = tmp_path / "mask"
    path.write_bytes(encode(MASKS[kind], format_))
    mask = read_mask(path)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, GREY > 100)


def test_palette_mask_is_read_by_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray((np.arange(4, dtype=np.uint8)).reshape(1, 4), "L").convert("P")
    image.putpalette([0, 0, 255, 0, 0, 0, 255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[True, False, True, False]]
    image.save(tmp_path / "clear.png", transparency=2)
    assert read_mask(tmp_path / "clear.png").tolist() == [[True, False, False, False]]


def test_float_and_integer_tiff(tmp_path: Path) -> None:
    for numbers, format_ in ((np.float32, 3), (np.int32, 2)):
        path = tmp_path / "mask.tif"
        path.write_bytes(tiff(np.array([[[0], [1], [-3]]], numbers), 1, format=(format_,)))
        assert read_mask(path).tolist() == [[False, True, True]]


def test_grey_with_alpha(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(png((4, 1), 8, 4, b"\0" + bytes([0, 0, 0, 255, 9, 0, 9, 1])))
    assert read_mask(path).tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("blot", [1, 3, 255])
def test_every_level_above_black_is_defective(tmp_path: Path, blot: int) -> None:
    """VisA numbers the kinds of defect from 1; other data sets write 255."""
    mask = read_mask(draw(tmp_path / "mask.png", blot=blot))
    assert mask.sum() == 100
    assert mask[10:20, 10:20].all()


@real_images.needed
def test_real_masks_match_their_images() -> None:
    for category in load_categories(real_images.DATA):
        for sample in category.test[:: max(1, len(category.test) // 6)]:
            image = read_image(sample.path)
            np.testing.assert_array_equal(image, np.asarray(Image.open(sample.path).convert("RGB")))
            if sample.mask is not None:
                mask = read_mask(sample.mask)
                assert mask.shape == image.shape[:2]
                assert 0 < mask.mean() < 0.8
