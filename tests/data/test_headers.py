"""Properties of file headers that Pillow's readers miss, refuse or report as warnings."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from patchcore_plugin.data.headers import Alpha, HeaderError, read_header
from tests.data.image_files import H, W, chunk, draw, encode

PNG = encode(draw("RGB"), "PNG")
EXIF = Image.Exif()
EXIF[274] = 6


@pytest.mark.parametrize("position", [33, -12], ids=["before the pixels", "after the pixels"])
def test_orientation_of_png_is_read_before_and_after_the_pixels(position: int) -> None:
    exif = chunk(b"eXIf", EXIF.tobytes().removeprefix(b"Exif\0\0"))
    header = read_header(PNG[:position] + exif + PNG[position:])
    assert (header.orientation, header.size) == (6, (H, W))


def test_png_with_much_compressed_text_is_read() -> None:
    text = chunk(b"zTXt", b"notes\0\0" + zlib.compress(bytes(3_000_000)))
    assert read_header(PNG[:33] + text + PNG[33:]).size == (H, W)


def test_checksum_of_an_optional_png_chunk_is_ignored() -> None:
    text = bytearray(chunk(b"tEXt", b"notes\0text"))
    text[-1] ^= 1
    assert read_header(PNG[:33] + bytes(text) + PNG[33:]).size == (H, W)


def test_damage_between_jpeg_segments_is_refused() -> None:
    data = bytearray(encode(draw("RGB"), "JPEG", exif=EXIF))
    position = data.find(b"\xff\xe1") + 2
    (length,) = struct.unpack_from(">H", data, position)
    assert read_header(bytes(data)).orientation == 6
    struct.pack_into(">H", data, position, length - 6)
    with pytest.raises(HeaderError, match="damaged"):
        read_header(bytes(data))


def test_size_of_a_large_webp_is_read() -> None:
    # A lossless chunk of 16,000 x 16,000 pixels.
    pixels = b"\x2f" + struct.pack("<I", 15_999 | 15_999 << 14) + bytes(5)
    body = b"WEBP" + b"VP8L" + struct.pack("<I", len(pixels)) + pixels
    assert read_header(b"RIFF" + struct.pack("<I", len(body)) + body).size == (16_000, 16_000)


def test_first_of_duplicate_tiff_fields_counts() -> None:
    fields = [(256, 4), (257, 2), (338, 1), (338, 2)]
    directory = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in fields)
    header = read_header(b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + directory + bytes(4))
    assert (header.size, header.alpha) == ((2, 4), Alpha.PREMULTIPLIED)


@pytest.mark.parametrize("offset", [2**31, 2**63, 2**64 - 1])
def test_big_tiff_with_its_directory_outside_of_the_file_is_refused(offset: int) -> None:
    with pytest.raises(HeaderError, match="cut short"):
        read_header(b"II+\0\x08\0\0\0" + struct.pack("<Q", offset) + bytes(64))


def test_riff_file_of_another_kind_is_refused() -> None:
    with pytest.raises(HeaderError, match="not a PNG"):
        read_header(b"RIFF\x24\0\0\0WAVEfmt " + bytes(40))
