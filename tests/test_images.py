from __future__ import annotations

import io
import struct
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from patchcore_plugin.datasets import PHOTO_SUFFIXES, load_categories
from patchcore_plugin.errors import ImageError
from patchcore_plugin.images import as_photo, read_mask, read_photo, to_unit, write_png

Array = npt.NDArray[Any]
REAL = Path(__file__).parents[1] / ".." / "shared" / "data"
SKIP = "replace or remove it, or pass --on-error skip"
CONVERT = "convert it to an 8 or 16 bit PNG, or pass --on-error skip"

H, W = 13, 17
GREY = np.linspace(0, 255, H * W).reshape(H, W).astype(np.uint8)
RGB = np.stack([GREY, 255 - GREY, GREY // 2 + 30], axis=2)
ALPHA = np.tile(np.linspace(0, 255, W).astype(np.uint8), (H, 1))


def drawn(mode: str) -> Image.Image:
    if mode == "1":
        return Image.fromarray(GREY > 100)
    if mode == "L":
        return Image.fromarray(GREY)
    if mode == "LA":
        return Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
    if mode == "RGBA":
        return Image.fromarray(np.dstack([RGB, ALPHA]))
    if mode == "P":
        return Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    if mode == "I;16":
        return Image.fromarray(GREY.astype(np.uint16) * 257 - (GREY > 0))
    return Image.fromarray(RGB).convert(mode)


def saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def over_white(colors: Array, alpha: Array, white: int = 255) -> Array:
    share = (alpha / white)[..., None]
    return np.rint(colors * share + white * (1 - share))


def by_pillow(data: bytes) -> Array:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "I;16":
        return np.repeat(np.asarray(image)[..., None], 3, axis=2)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return over_white(rgba[..., :3], rgba[..., 3])
    return np.asarray(image.convert("RGB"))


def photo_of(folder: Path, data: bytes, name: str = "photo") -> Array:
    path = folder / name
    path.write_bytes(data)
    return read_photo(path)


def refusal_of(folder: Path, data: bytes, name: str = "photo.png") -> str:
    path = folder / name
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_photo(path)
    with pytest.raises(ImageError):
        read_mask(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a readable image (")
    assert "\n" not in message
    return message.removeprefix(f"{path}: not a readable image ")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(size: tuple[int, int], depth: int, kind: int, rows: bytes, *extra: bytes) -> bytes:
    """Return a PNG of a depth and kind that the libraries do not write."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + body + chunk(b"IEND", b"")


def tiff(
    pixels: Array, photometric: int, *, planes: bool = False, order: str = "<", **fields: tuple[int, ...]
) -> bytes:
    """Return an uncompressed TIFF with the given fields: extra, format, orientation."""
    height, width, samples = pixels.shape
    kind = pixels.dtype.newbyteorder(order)  # type: ignore[arg-type]
    strips = [pixels[..., i] for i in range(samples)] if planes else [pixels]
    data = [strip.astype(kind).tobytes() for strip in strips]
    offsets = [8 + sum(map(len, data[:i])) for i in range(len(data))]
    tags = {
        256: (width,),
        257: (height,),
        258: (pixels.dtype.itemsize * 8,) * samples,
        259: (1,),
        262: (photometric,),
        273: tuple(offsets),
        277: (samples,),
        278: (height,),
        279: tuple(map(len, data)),
        284: (2 if planes else 1,),
    }
    numbers = {"extra": 338, "format": 339, "orientation": 274}
    tags.update({numbers[name]: value for name, value in fields.items()})
    start = 8 + sum(map(len, data))
    at = start + 2 + 12 * len(tags) + 4
    directory, tail = struct.pack(order + "H", len(tags)), b""
    for tag, values in sorted(tags.items()):
        long = tag in (256, 257, 273, 278, 279)
        packed = struct.pack(f"{order}{len(values)}{'I' if long else 'H'}", *values)
        if len(packed) > 4:
            packed, tail = struct.pack(order + "I", at + len(tail)), tail + packed
        directory += struct.pack(order + "HHI", tag, 4 if long else 3, len(values)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", start) + b"".join(data) + directory + b"\0\0\0\0" + tail


MODES = {
    "PNG": ("1", "L", "LA", "RGB", "RGBA", "P", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "RGB", "RGBA", "P", "I;16", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
}


@pytest.mark.parametrize(("format_", "mode"), [(f, m) for f, modes in MODES.items() for m in modes])
def test_every_format_and_mode_is_read_as_pillow_reads_it(tmp_path: Path, format_: str, mode: str) -> None:
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    data = saved(drawn(mode), format_, **options)
    photo = photo_of(tmp_path, data)
    assert photo.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    assert photo.shape == (H, W, 3)
    assert photo.flags.c_contiguous
    # TIFF multiplies alpha in at 8 bits; CMYK and JPEG round as they like.
    tolerance = 1 if (format_, mode) in {("TIFF", "RGBA"), ("JPEG", "CMYK"), ("TIFF", "CMYK")} else 0
    np.testing.assert_allclose(photo, by_pillow(data), rtol=0, atol=tolerance)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["1", "RGB", "I;16"])
def test_compressed_tiff(tmp_path: Path, compression: str, mode: str) -> None:
    data = saved(drawn(mode), "TIFF", compression=compression)
    np.testing.assert_array_equal(photo_of(tmp_path, data), by_pillow(data))


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 16))])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    data = saved(drawn("P"), "PNG", transparency=transparency)
    photo = photo_of(tmp_path, data)
    assert (photo != np.asarray(drawn("P").convert("RGB"))).any()
    np.testing.assert_array_equal(photo, by_pillow(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_progressive_jpeg_with_a_thumbnail_behind_it(tmp_path: Path, progressive: bool) -> None:
    data = saved(drawn("RGB"), "JPEG", progressive=progressive)
    photo = photo_of(tmp_path, data + b"appended by a camera")
    np.testing.assert_array_equal(photo, by_pillow(data))


DEEP = np.array([[[40000, 30000, 20000, 0], [1, 2, 3, 65535], [50000, 60000, 7, 21845]]], np.uint16)


def test_16_bit_png_keeps_its_depth(tmp_path: Path) -> None:
    rgb = b"\0" + DEEP[..., :3].astype(">u2").tobytes()
    photo = photo_of(tmp_path, png((3, 1), 16, 2, rgb))
    assert photo.dtype == np.uint16
    np.testing.assert_array_equal(photo, DEEP[..., :3])


def test_16_bit_alpha_is_composited_at_16_bit(tmp_path: Path) -> None:
    photo = photo_of(tmp_path, png((3, 1), 16, 6, b"\0" + DEEP.astype(">u2").tobytes()))
    assert photo.dtype == np.uint16
    np.testing.assert_array_equal(photo, over_white(DEEP[..., :3], DEEP[..., 3], 65535))
    assert photo[0, 0].tolist() == [65535] * 3


def test_16_bit_grey_with_alpha(tmp_path: Path) -> None:
    photo = photo_of(tmp_path, png((3, 1), 16, 4, b"\0" + DEEP[..., 2:].astype(">u2").tobytes()))
    expected = over_white(DEEP[..., 2:3], DEEP[..., 3], 65535)
    np.testing.assert_array_equal(photo, np.repeat(expected, 3, axis=2))


@pytest.mark.parametrize(
    ("depth", "row", "levels"),
    [(1, b"\x80", [255, 0]), (2, b"\x90", [170, 85]), (4, b"\x9f", [153, 255])],
)
def test_grey_of_few_bits_spans_the_whole_range(tmp_path: Path, depth: int, row: bytes, levels: list[int]) -> None:
    assert photo_of(tmp_path, png((2, 1), depth, 0, b"\0" + row))[0, :, 1].tolist() == levels
    see_through = chunk(b"tRNS", struct.pack(">H", row[0] >> (8 - depth)))
    assert photo_of(tmp_path, png((2, 1), depth, 0, b"\0" + row, see_through))[0, :, 1].tolist() == [
        255,
        levels[1],
    ]


def test_a_transparent_grey_or_colour_of_16_bits(tmp_path: Path) -> None:
    grey = png((2, 1), 16, 0, struct.pack(">B2H", 0, 900, 901), chunk(b"tRNS", struct.pack(">H", 900)))
    assert photo_of(tmp_path, grey)[0].tolist() == [[65535] * 3, [901] * 3]
    color = struct.pack(">B6H", 0, 900, 5, 6, 900, 5, 7)
    rgb = png((2, 1), 16, 2, color, chunk(b"tRNS", struct.pack(">3H", 900, 5, 6)))
    assert photo_of(tmp_path, rgb)[0].tolist() == [[65535] * 3, [900, 5, 7]]


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
        photo = photo_of(tmp_path, data)
        assert photo.dtype == dtype
        np.testing.assert_allclose(photo, expected, rtol=0, atol=1)


def test_colours_above_their_alpha_do_not_wrap_around(tmp_path: Path) -> None:
    photo = photo_of(tmp_path, tiff(SHALLOW, 2, extra=(1,)))
    assert photo[0, 0].tolist() == [255, 227, 177]
    assert photo[0, 1].tolist() == [255] * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_where_zero_is_white(tmp_path: Path, dtype: type[np.generic]) -> None:
    grey = np.array([[[0], [100]]], dtype)
    white = np.iinfo(dtype).max  # type: ignore[type-var]
    assert photo_of(tmp_path, tiff(grey, 0))[0].tolist() == [[white] * 3, [white - 100] * 3]
    assert photo_of(tmp_path, tiff(grey, 1))[0].tolist() == [[0] * 3, [100] * 3]


def test_tiff_with_separate_planes_of_8_bits(tmp_path: Path) -> None:
    colors = SHALLOW[..., :3]
    np.testing.assert_array_equal(photo_of(tmp_path, tiff(colors, 2, planes=True)), colors)


REFUSED = {
    "float32": (tiff(np.ones((2, 2, 1), np.float32), 1, format=(3,)), "its pixels are float32 numbers"),
    "float32 RGB": (
        tiff(np.ones((2, 2, 3), np.float32), 2, format=(3,) * 3),
        "its pixels are float32 numbers",
    ),
    "float64": (tiff(np.ones((2, 2, 1), np.float64), 1, format=(3,)), "its pixels are float64 numbers"),
    "float16": (tiff(np.ones((2, 2, 1), np.float16), 1, format=(3,)), "its pixels are float16 numbers"),
    "int16": (tiff(np.ones((2, 2, 1), np.int16), 1, format=(2,)), "its pixels are int16 numbers"),
    "int32": (tiff(np.ones((2, 2, 1), np.int32), 1, format=(2,)), "its pixels are int32 numbers"),
    "16 bit planes": (tiff(DEEP[..., :3], 2, planes=True), "a TIFF of more than 8 bits with separate colour"),
    "16 bit CMYK": (tiff(DEEP, 5), "a CMYK TIFF of more than 8 bits"),
    "grey and alpha": (saved(drawn("LA"), "TIFF"), "a grey TIFF with alpha"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tiff_that_would_be_misread_says_to_convert_it(tmp_path: Path, kind: str) -> None:
    data, reason = REFUSED[kind]
    path = tmp_path / "a.tiff"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_photo(path)
    assert str(caught.value).startswith(f"{path}: not a readable image ({reason}")
    assert str(caught.value).endswith(f"); {CONVERT}")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format_", "mode"),
    [
        *(("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("WEBP", "RGBA")),
        *(("PNG", "L"), ("PNG", "LA"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16")),
        *(("TIFF", "1"), ("TIFF", "RGB"), ("TIFF", "RGBA"), ("TIFF", "I;16")),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, format_: str, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    data = saved(drawn(mode), format_, exif=exif, **options)
    photo = photo_of(tmp_path, data)
    assert photo.shape == ((W, H, 3) if orientation >= 5 else (H, W, 3))
    np.testing.assert_allclose(photo, by_pillow(data), rtol=0, atol=1)
    np.testing.assert_array_equal(read_mask(tmp_path / "photo"), mask_by_pillow(data))


def mask_by_pillow(data: bytes) -> Array:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "I;16":
        return np.asarray(image) > 0
    rgba = np.asarray(image.convert("RGBA"))
    return rgba[..., :3].any(axis=2) & (rgba[..., 3] > 0)


@pytest.mark.parametrize(
    "exif", [b"", b"II*\0", b"MM\0*\0\0\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"nonsense that is long enough"]
)
def test_damaged_exif_is_no_rotation(tmp_path: Path, exif: bytes) -> None:
    data = saved(drawn("RGB"), "PNG")
    turned = data[:33] + chunk(b"eXIf", exif) + data[33:]
    np.testing.assert_array_equal(photo_of(tmp_path, turned), RGB)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_unknown_orientation_is_no_rotation(tmp_path: Path, value: int) -> None:
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HH", value, 0) + b"\0\0\0\0"
    data = saved(drawn("RGB"), "PNG")
    turned = data[:33] + chunk(b"eXIf", exif) + data[33:]
    np.testing.assert_array_equal(photo_of(tmp_path, turned), RGB)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 3), (255, 1), (1, 257)])
@pytest.mark.parametrize("format_", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_odd_sizes(tmp_path: Path, format_: str, size: tuple[int, int]) -> None:
    photo = photo_of(tmp_path, saved(Image.new("RGB", size, (255, 255, 255)), format_))
    assert photo.shape == (size[1], size[0], 3)
    assert (photo >= 254).all()


NOISE = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
RUNS = Image.fromarray(np.repeat(NOISE[:, :6], 8, axis=1))
WHOLE = {
    "PNG": saved(Image.fromarray(NOISE), "PNG"),
    "JPEG": saved(Image.fromarray(NOISE), "JPEG"),
    "progressive JPEG": saved(Image.fromarray(NOISE), "JPEG", progressive=True),
    "JPEG, restarts": saved(Image.fromarray(NOISE), "JPEG", restart_marker_blocks=1),
    "BMP": saved(Image.fromarray(NOISE), "BMP"),
    "TIFF": saved(Image.fromarray(NOISE), "TIFF"),
    "TIFF, LZW": saved(Image.fromarray(NOISE), "TIFF", compression="tiff_lzw"),
    "TIFF, deflate": saved(Image.fromarray(NOISE), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, 16 bits": saved(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 256), "TIFF"),
    "WebP": saved(Image.fromarray(NOISE), "WEBP"),
    "lossless WebP": saved(Image.fromarray(NOISE), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_cut_file_is_refused_at_every_length(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole = WHOLE[kind]
    assert photo_of(tmp_path, whole).shape == (48, 48, 3)
    lengths = {1, 2, 3, 4, 8, 12, 20, 33, 34, 60, 200, *range(1, len(whole), len(whole) // 37)}
    lengths |= {len(whole) - missing for missing in (1, 2, 3, 4, 11, 12, 13, 40)}
    for length in sorted(lengths):
        assert refusal_of(tmp_path, whole[:length]).endswith(f"); {SKIP}"), length
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if "TIFF" not in kind])
def test_a_file_cut_in_half_says_so(tmp_path: Path, kind: str) -> None:
    whole = WHOLE[kind]
    message = refusal_of(tmp_path, whole[: len(whole) // 2])
    assert "cut short" in message


def test_a_damaged_png_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = bytearray(WHOLE["PNG"])
    damaged[len(damaged) // 2] ^= 0x10
    message = refusal_of(tmp_path, bytes(damaged))
    assert message == f"(the file is damaged: a checksum does not match); {SKIP}"
    assert capfd.readouterr() == ("", "")


def test_a_run_length_bmp_that_is_cut_is_refused(tmp_path: Path) -> None:
    width, height = 4, 2
    stream = b"\x04\x01\0\0" + b"\x04\x02\0\0" + b"\0\x01"
    palette = b"".join(bytes([level] * 3) + b"\0" for level in (0, 100, 200, 255))
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(stream), 0, 0, 4, 0)
    whole = b"BM" + struct.pack("<IHHI", start + len(stream), 0, 0, start) + info + palette + stream
    assert photo_of(tmp_path, whole)[..., 0].tolist() == [[200] * 4, [100] * 4]
    for missing in range(1, len(stream) + 1):
        refusal_of(tmp_path, whole[:-missing])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "(the file is empty)"),
        (b"just some text\n", "(it holds text)"),
        ("ä".encode() * 400, "(it holds text)"),
        (b"GIF89a" + bytes(60), "(it is no PNG, JPEG, BMP, TIFF or WebP file, whatever its name says)"),
        (bytes(4000), "(it is no PNG, JPEG, BMP, TIFF or WebP file, whatever its name says)"),
        (b"\xfe\xed" * 40, "(it is no PNG, JPEG, BMP, TIFF or WebP file, whatever its name says)"),
        (b"\xff\xd8\xff\xd9", "(the file is cut short)"),
        (b"\xff\xd8\xff\xe0\0\x04ab" + b"not a marker", "(the file is damaged: a marker is missing)"),
        (b"\x89PNG\r\n\x1a\n", "(the file is cut short)"),
    ],
)
def test_what_is_no_photo_says_what_it_is(tmp_path: Path, data: bytes, reason: str) -> None:
    assert refusal_of(tmp_path, data) == f"{reason}; {SKIP}"


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    np.testing.assert_array_equal(photo_of(tmp_path, saved(drawn("RGB"), "PNG"), "a.jpg"), RGB)


@pytest.mark.parametrize("read", [read_photo, read_mask])
def test_missing_files_and_folders_are_told(tmp_path: Path, read: Any) -> None:
    with pytest.raises(ImageError) as caught:
        read(tmp_path / "a.png")
    expected = f"{tmp_path / 'a.png'}: no such file; check the path, or pass --on-error skip"
    assert str(caught.value) == expected
    with pytest.raises(ImageError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: a folder, not a photo; name a file in it"


@pytest.mark.skipif(sys.platform == "win32", reason="such names are not allowed there")
def test_a_message_is_one_line_whatever_the_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\\nb\.png: no such file; check the path"):
        read_photo(tmp_path / "a\nb.png")


@pytest.mark.parametrize("name", ["größe 零件.png", "эталон.jpg", "a b'c.webp"])
def test_names_of_any_language(tmp_path: Path, name: str) -> None:
    photo = photo_of(tmp_path, saved(drawn("RGB"), "PNG"), name)
    np.testing.assert_array_equal(photo, RGB)
    write_png(tmp_path / name, photo)
    np.testing.assert_array_equal(read_photo(str(tmp_path / name)), RGB)


def test_the_log_level_of_opencv_is_restored_after_many_threads(tmp_path: Path) -> None:
    log: Any = getattr(cv2.utils, "logging", cv2)
    before = log.getLogLevel()
    good, cut = tmp_path / "good", tmp_path / "cut"
    good.write_bytes(WHOLE["BMP"])
    cut.write_bytes(WHOLE["BMP"][:3000])
    barrier = threading.Barrier(4)

    def work(_: int) -> None:
        barrier.wait()
        for _ in range(50):
            read_photo(good)
            with pytest.raises(ImageError):
                read_photo(cut)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert log.getLogLevel() == before


MASKS = {
    "1-bit": Image.fromarray(GREY > 100),
    "grey": Image.fromarray(np.where(GREY > 100, 255, 0).astype(np.uint8)),
    "faint grey": Image.fromarray((GREY > 100).astype(np.uint8)),
    "16 bit": Image.fromarray((GREY > 100).astype(np.uint16)),
    "RGB, one colour": Image.fromarray(np.dstack([GREY * 0, GREY * 0, (GREY > 100).astype(np.uint8)])),
    "opaque": Image.fromarray(np.dstack([*[np.uint8(255) * (GREY > 100)] * 3, np.full_like(GREY, 255)])),
    "see-through": Image.fromarray(np.dstack([np.full((H, W, 3), 9, np.uint8), np.uint8(1) * (GREY > 100)])),
}


# A TIFF of 8 bits multiplies a faint alpha to nothing.
@pytest.mark.parametrize(
    ("kind", "format_"),
    [(k, f) for k in MASKS for f in ("PNG", "TIFF") if (k, f) != ("see-through", "TIFF")],
)
def test_masks_of_every_mode(tmp_path: Path, kind: str, format_: str) -> None:
    path = tmp_path / "mask"
    path.write_bytes(saved(MASKS[kind], format_))
    mask = read_mask(path)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, GREY > 100)


def test_a_palette_mask_counts_its_colours_not_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray((np.arange(4, dtype=np.uint8)).reshape(1, 4), "L").convert("P")
    image.putpalette([0, 0, 255, 0, 0, 0, 255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[True, False, True, False]]
    image.save(tmp_path / "clear.png", transparency=2)
    assert read_mask(tmp_path / "clear.png").tolist() == [[True, False, False, False]]


def test_float_and_integer_tiff_masks(tmp_path: Path) -> None:
    for numbers, format_ in ((np.float32, 3), (np.int32, 2)):
        path = tmp_path / "mask.tif"
        path.write_bytes(tiff(np.array([[[0], [1], [-3]]], numbers), 1, format=(format_,)))
        assert read_mask(path).tolist() == [[False, True, True]]


def test_a_grey_alpha_mask(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(png((4, 1), 8, 4, b"\0" + bytes([0, 0, 0, 255, 9, 0, 9, 1])))
    assert read_mask(path).tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_arrays_of_every_accepted_kind(dtype: type[np.generic], channels: tuple[int, ...]) -> None:
    given = np.random.default_rng(0).random((5, 4, *channels))
    white = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    array = np.rint(given * white).astype(dtype) if dtype is not np.bool_ else given > 0.5
    array = array if np.issubdtype(dtype, np.integer) or dtype is np.bool_ else given.astype(dtype)
    copy = array.copy()
    photo = as_photo(array)
    np.testing.assert_array_equal(array, copy)
    assert photo.shape == (5, 4, 3)
    assert photo.flags.c_contiguous
    expected_type = {np.uint8: np.uint8, np.uint16: np.uint16, np.bool_: np.uint8}.get(dtype, np.float32)
    assert photo.dtype == expected_type
    unit = array.astype(np.float64) / white
    unit = np.atleast_3d(unit)
    if channels == (4,):
        unit = unit[..., :3] * unit[..., 3:] + 1 - unit[..., 3:]
    scale = {np.uint8: 255, np.uint16: 65535}.get(photo.dtype.type, 1)
    expected = np.broadcast_to(unit, (5, 4, 3)) * scale
    np.testing.assert_allclose(photo, expected, rtol=0, atol=0.5 + 1e-9 if scale > 1 else 1e-6)


def test_arrays_with_strides_and_read_only_arrays() -> None:
    base = RGB.copy()
    base.flags.writeable = False
    flipped = base[::-1, ::2, ::-1]
    np.testing.assert_array_equal(as_photo(flipped), RGB[::-1, ::2, ::-1])
    np.testing.assert_array_equal(to_unit(as_photo(base)), RGB.astype(np.float32) / 255)


@pytest.mark.parametrize("bad", [-0.01, 1.01, np.nan, np.inf, -np.inf, 255.0])
def test_floats_outside_of_0_to_1_are_refused(bad: float) -> None:
    array = np.full((2, 2, 3), 0.5)
    array[1, 1, 1] = bad
    with pytest.raises(ImageError, match=r"must be finite and in 0\.\.1, but it spans "):
        as_photo(array)


@pytest.mark.parametrize("shape", [(), (3,), (3, 0), (0, 3, 3), (2, 2, 2), (2, 2, 5), (1, 2, 2, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"is not a photo: pass \[H, W\], "):
        as_photo(np.zeros(shape, np.uint8))


def test_channels_first_gets_a_hint() -> None:
    with pytest.raises(ImageError, match=r"shape \[3, 20, 20\] is not a photo: .*; move its channels last$"):
        as_photo(np.zeros((3, 20, 20), np.uint8))


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint32, np.complex64, object, "U1"])
def test_arrays_of_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(ImageError, match="has no known white: make it uint8, uint16 or float"):
        as_photo(np.ones((2, 2)).astype(dtype))


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_black_is_0_and_white_is_1_at_every_depth(dtype: type[np.generic], white: int) -> None:
    photo = np.array([[[0, white, white / 5]]]).astype(dtype)
    copy = photo.copy()
    unit = to_unit(photo)
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(unit, np.array([[[0, 1, 0.2]]], np.float32))
    unit[:] = 7
    np.testing.assert_array_equal(photo, copy)


def test_scaling_refuses_other_dtypes() -> None:
    with pytest.raises(ImageError, match="a photo of float64 numbers cannot be scaled"):
        to_unit(np.zeros((1, 1, 3)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 4, 3), (5, 4, 1), (5, 4)])
def test_written_images_are_read_back(tmp_path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)  # type: ignore[type-var]
    write_png(tmp_path / "out.png", image)
    np.testing.assert_array_equal(read_photo(tmp_path / "out.png"), as_photo(image))
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_other_readers_see_the_colours_in_order(tmp_path: Path) -> None:
    write_png(tmp_path / "out.png", RGB)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), RGB)


@pytest.mark.parametrize(
    "image", [np.zeros((2, 2), np.float32), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_what_cannot_be_written_is_told(tmp_path: Path, image: Array) -> None:
    with pytest.raises(ImageError, match=r"out\.png: cannot write .* as PNG; pass uint8 or uint16"):
        write_png(tmp_path / "out.png", image)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    with pytest.raises(ImageError, match=r"folder: cannot be written \("):
        write_png(tmp_path / "folder", RGB)
    with pytest.raises(ImageError, match=r"out\.png: cannot be written \(No such file"):
        write_png(tmp_path / "gone" / "out.png", RGB)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "kept"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real photos are not beside this checkout")
def test_real_photos_and_masks_fit_together() -> None:
    for category in load_categories(REAL):
        for sample in category.test[:: max(1, len(category.test) // 6)]:
            photo = read_photo(sample.path)
            np.testing.assert_array_equal(photo, np.asarray(Image.open(sample.path).convert("RGB")))
            if sample.mask is not None:
                mask = read_mask(sample.mask)
                assert mask.shape == photo.shape[:2]
                assert 0 < mask.mean() < 0.8


def test_every_suffix_names_a_format_that_is_read() -> None:
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in PHOTO_SUFFIXES} == set(MODES)
