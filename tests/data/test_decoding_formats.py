"""Image files of every format and mode: the same pixels, depth, transparency and orientation as in Pillow."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from patchcore_plugin.data.datasets import IMAGE_SUFFIXES
from patchcore_plugin.data.images import read_image, read_mask
from patchcore_plugin.errors import ImageError
from tests.data.image_files import RGB, Array, H, W, chunk, draw, encode, over_white, png, tiff, write_and_read


def read_by_pillow(data: bytes) -> Array:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "I;16":
        return np.repeat(np.asarray(image)[..., None], 3, axis=2)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return over_white(rgba[..., :3], rgba[..., 3])
    return np.asarray(image.convert("RGB"))


MODES = {
    "PNG": ("1", "L", "LA", "RGB", "RGBA", "P", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "RGB", "RGBA", "P", "I;16", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
}


def test_every_suffix_names_a_supported_format() -> None:
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in IMAGE_SUFFIXES} == set(MODES)


@pytest.mark.parametrize(("format_", "mode"), [(f, m) for f, modes in MODES.items() for m in modes])
def test_every_format_and_mode_is_read_as_by_pillow(tmp_path: Path, format_: str, mode: str) -> None:
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    data = encode(draw(mode), format_, **options)
    image = write_and_read(tmp_path, data)
    assert image.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    assert image.shape == (H, W, 3)
    assert image.flags.c_contiguous
    # The TIFF library premultiplies alpha of 8 bits; conversions from CMYK round differently.
    tolerance = 1 if (format_, mode) in {("TIFF", "RGBA"), ("JPEG", "CMYK"), ("TIFF", "CMYK")} else 0
    np.testing.assert_allclose(image, read_by_pillow(data), rtol=0, atol=tolerance)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    for mode in ("1", "RGB", "I;16"):
        data = encode(draw(mode), "TIFF", compression=compression)
        np.testing.assert_array_equal(write_and_read(tmp_path, data), read_by_pillow(data))


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 16))])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    data = encode(draw("P"), "PNG", transparency=transparency)
    image = write_and_read(tmp_path, data)
    assert (image != np.asarray(draw("P").convert("RGB"))).any()
    np.testing.assert_array_equal(image, read_by_pillow(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_with_data_appended_by_a_camera(tmp_path: Path, progressive: bool) -> None:
    data = encode(draw("RGB"), "JPEG", progressive=progressive)
    image = write_and_read(tmp_path, data + b"appended by a camera")
    np.testing.assert_array_equal(image, read_by_pillow(data))


@pytest.mark.parametrize("format_", MODES)
def test_odd_sizes(tmp_path: Path, format_: str) -> None:
    for width, height in [(1, 1), (1, 7), (7, 1), (2, 3), (255, 1), (1, 257)]:
        image = write_and_read(tmp_path, encode(Image.new("RGB", (width, height), (255, 255, 255)), format_))
        assert image.shape == (height, width, 3)
        assert (image >= 254).all()


# Depth and transparency


DEEP = np.array([[[40000, 30000, 20000, 0], [1, 2, 3, 65535], [50000, 60000, 7, 21845]]], np.uint16)


def test_16_bit_png_keeps_its_depth(tmp_path: Path) -> None:
    rgb = b"\0" + DEEP[..., :3].astype(">u2").tobytes()
    image = write_and_read(tmp_path, png((3, 1), 16, 2, rgb))
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, DEEP[..., :3])


def test_16_bit_alpha_is_composited_at_16_bit(tmp_path: Path) -> None:
    image = write_and_read(tmp_path, png((3, 1), 16, 6, b"\0" + DEEP.astype(">u2").tobytes()))
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, over_white(DEEP[..., :3], DEEP[..., 3], 65535))
    assert image[0, 0].tolist() == [65535] * 3


def test_16_bit_grey_with_alpha(tmp_path: Path) -> None:
    image = write_and_read(tmp_path, png((3, 1), 16, 4, b"\0" + DEEP[..., 2:].astype(">u2").tobytes()))
    expected = over_white(DEEP[..., 2:3], DEEP[..., 3], 65535)
    np.testing.assert_array_equal(image, np.repeat(expected, 3, axis=2))


@pytest.mark.parametrize(
    ("depth", "row", "levels"),
    [(1, b"\x80", [255, 0]), (2, b"\x90", [170, 85]), (4, b"\x9f", [153, 255])],
)
def test_grey_of_few_bits_spans_the_whole_range(tmp_path: Path, depth: int, row: bytes, levels: list[int]) -> None:
    assert write_and_read(tmp_path, png((2, 1), depth, 0, b"\0" + row))[0, :, 1].tolist() == levels
    transparent = chunk(b"tRNS", struct.pack(">H", row[0] >> (8 - depth)))
    assert write_and_read(tmp_path, png((2, 1), depth, 0, b"\0" + row, transparent))[0, :, 1].tolist() == [
        255,
        levels[1],
    ]


def test_transparent_grey_or_colour_of_16_bits(tmp_path: Path) -> None:
    grey = png((2, 1), 16, 0, struct.pack(">B2H", 0, 900, 901), chunk(b"tRNS", struct.pack(">H", 900)))
    assert write_and_read(tmp_path, grey)[0].tolist() == [[65535] * 3, [901] * 3]
    color = struct.pack(">B6H", 0, 900, 5, 6, 900, 5, 7)
    rgb = png((2, 1), 16, 2, color, chunk(b"tRNS", struct.pack(">3H", 900, 5, 6)))
    assert write_and_read(tmp_path, rgb)[0].tolist() == [[65535] * 3, [900, 5, 7]]


SHALLOW = np.array([[[200, 100, 50, 128], [10, 20, 30, 0], [1, 2, 3, 255]]], np.uint8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_alpha_of_every_kind(tmp_path: Path, dtype: type[np.generic], order: str) -> None:
    white = int(np.iinfo(dtype).max)  # type: ignore[type-var]
    pixels = SHALLOW.astype(dtype) * dtype(white // 255)
    colors, alpha = pixels[..., :3], pixels[..., 3]
    straight = over_white(colors, alpha, white)
    multiplied = np.rint(colors * (alpha / white)[..., None]).astype(dtype)
    both = np.dstack([multiplied, alpha])
    for data, expected in (
        (tiff(pixels, 2, order=order), straight),
        (tiff(pixels, 2, order=order, extra=(0,)), colors),
        (tiff(both, 2, order=order, extra=(1,)), straight),
        (tiff(pixels, 2, order=order, extra=(2,)), straight),
    ):
        image = write_and_read(tmp_path, data)
        assert image.dtype == dtype
        np.testing.assert_allclose(image, expected, rtol=0, atol=1)


def test_colours_above_their_alpha_do_not_wrap_around(tmp_path: Path) -> None:
    image = write_and_read(tmp_path, tiff(SHALLOW, 2, extra=(1,)))
    assert image[0, 0].tolist() == [255, 227, 177]
    assert image[0, 1].tolist() == [255] * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_where_zero_is_white(tmp_path: Path, dtype: type[np.generic]) -> None:
    grey = np.array([[[0], [100]]], dtype)
    white = np.iinfo(dtype).max  # type: ignore[type-var]
    assert write_and_read(tmp_path, tiff(grey, 0))[0].tolist() == [[white] * 3, [white - 100] * 3]
    assert write_and_read(tmp_path, tiff(grey, 1))[0].tolist() == [[0] * 3, [100] * 3]


def test_tiff_with_separate_planes_of_8_bits(tmp_path: Path) -> None:
    colors = SHALLOW[..., :3]
    np.testing.assert_array_equal(write_and_read(tmp_path, tiff(colors, 2, planes=True)), colors)


REFUSED = {
    "float32": (tiff(np.ones((2, 2, 1), np.float32), 1, format=(3,)), "float32"),
    "float32 RGB": (
        tiff(np.ones((2, 2, 3), np.float32), 2, format=(3,) * 3),
        "float32",
    ),
    "float64": (tiff(np.ones((2, 2, 1), np.float64), 1, format=(3,)), "float64"),
    "float16": (tiff(np.ones((2, 2, 1), np.float16), 1, format=(3,)), "float16"),
    "int16": (tiff(np.ones((2, 2, 1), np.int16), 1, format=(2,)), "int16"),
    "int32": (tiff(np.ones((2, 2, 1), np.int32), 1, format=(2,)), "int32"),
    "16 bit planes": (tiff(DEEP[..., :3], 2, planes=True), "separate colour planes"),
    "16 bit CMYK": (tiff(DEEP, 5), "CMYK"),
    "grey and alpha": (encode(draw("LA"), "TIFF"), "a grey TIFF with alpha"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tiff_that_opencv_misreads_is_refused(tmp_path: Path, kind: str) -> None:
    data, reason = REFUSED[kind]
    path = tmp_path / "a.tiff"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert "convert it to an 8 or 16 bit PNG" in str(caught.value)


# Orientation


def read_mask_by_pillow(data: bytes) -> Array:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "I;16":
        return np.asarray(image) > 0
    rgba = np.asarray(image.convert("RGBA"))
    return rgba[..., :3].any(axis=2) & (rgba[..., 3] > 0)


@pytest.mark.parametrize(
    ("format_", "mode"),
    [
        *(("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("WEBP", "RGBA")),
        *(("PNG", "L"), ("PNG", "LA"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16")),
        *(("TIFF", "1"), ("TIFF", "RGB"), ("TIFF", "RGBA"), ("TIFF", "I;16")),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, format_: str, mode: str) -> None:
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        data = encode(draw(mode), format_, exif=exif, **options)
        image = write_and_read(tmp_path, data)
        assert image.shape == ((W, H, 3) if orientation >= 5 else (H, W, 3))
        np.testing.assert_allclose(image, read_by_pillow(data), rtol=0, atol=1)
        np.testing.assert_array_equal(read_mask(tmp_path / "image"), read_mask_by_pillow(data))


@pytest.mark.parametrize(
    "exif", [b"", b"II*\0", b"MM\0*\0\0\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"nonsense that is long enough"]
)
def test_damaged_exif_means_no_rotation(tmp_path: Path, exif: bytes) -> None:
    data = encode(draw("RGB"), "PNG")
    turned = data[:33] + chunk(b"eXIf", exif) + data[33:]
    np.testing.assert_array_equal(write_and_read(tmp_path, turned), RGB)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_unknown_orientation_means_no_rotation(tmp_path: Path, value: int) -> None:
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HH", value, 0) + b"\0\0\0\0"
    data = encode(draw("RGB"), "PNG")
    turned = data[:33] + chunk(b"eXIf", exif) + data[33:]
    np.testing.assert_array_equal(write_and_read(tmp_path, turned), RGB)
