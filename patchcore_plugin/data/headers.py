"""Format, size, orientation and completeness of an image file, read from its headers.

OpenCV decodes the pixels, but it returns a half-grey image for a JPEG that is cut short, ignores the EXIF orientation
of images read with alpha, and misreads a few kinds of TIFF. Pillow's readers do not close these gaps: they miss an eXIf
chunk after the pixels of a PNG, refuse a PNG whose text exceeds 1 MB and a WebP above 179 megapixels, skip damage
between the segments of a JPEG, and report damaged EXIF and TIFF directories as Python warnings, which one thread cannot
silence for itself. Only the names of TIFF tags come from Pillow.
"""

from __future__ import annotations

import codecs
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from PIL.ExifTags import Base as Tag

_CUT = "the file is cut short"
_FOREIGN = "not a PNG, JPEG, BMP, TIFF or WebP file, regardless of its name"

# struct codes of the TIFF field types that hold the numbers needed here.
_FIELD_CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_FIELD_VALUES = 64

# JPEG markers that start a frame: C0 to CF except tables and the reserved marker.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class HeaderError(ValueError):
    """The bytes are not a complete image; the message is the reason, without a file name."""


class Alpha(Enum):
    """Meaning of the fourth channel of an image with four channels."""

    STRAIGHT = auto()
    STRAIGHT_TIFF = auto()
    """Declared straight in a TIFF; the TIFF library premultiplies it at 8 bits."""
    PREMULTIPLIED = auto()
    NONE = auto()


_TIFF_ALPHA: dict[tuple[int, ...], Alpha] = {(0,): Alpha.NONE, (1,): Alpha.PREMULTIPLIED, (2,): Alpha.STRAIGHT_TIFF}


@dataclass(frozen=True)
class Header:
    """Properties of an image file that its headers state.

    Attributes
    ----------
    format : str
        "PNG", "JPEG", "BMP", "TIFF" or "WebP".
    orientation : int
        EXIF orientation, 1 to 8, that the reader must apply. Always 1 for TIFF, which OpenCV rotates itself.
    transparent_grey : int or None
        Grey level that a grey PNG declares transparent, scaled to the decoded depth.
    alpha : Alpha
        Meaning of the fourth channel.
    inverted : bool
        Whether zero is white.
    misread : str or None
        Kind of image whose pixels OpenCV decodes wrongly; None if it decodes them correctly.
    size : tuple of int
        Stored height and width, before any rotation; (0, 0) if the file does not state them.
    """

    format: str
    orientation: int = 1
    transparent_grey: int | None = None
    alpha: Alpha = Alpha.STRAIGHT
    inverted: bool = False
    misread: str | None = None
    size: tuple[int, int] = (0, 0)


def read_header(data: bytes) -> Header:
    """Read the headers of an image file; its pixels are not decoded.

    Parameters
    ----------
    data : bytes
        The complete file. Its first bytes decide the format.

    Returns
    -------
    Header

    Raises
    ------
    HeaderError
        If the file is empty, of an unsupported format, damaged or cut short.

    Examples
    --------
    >>> import numpy as np
    >>> from patchcore_plugin.data.encoding import encode_png
    >>> header = read_header(encode_png(np.zeros((3, 4), np.uint8)))
    >>> header.format, header.size
    ('PNG', (3, 4))
    """
    if not data:
        raise HeaderError("the file is empty")
    for signatures, read in _READERS:
        if data.startswith(signatures):
            try:
                return read(data)
            except (struct.error, OverflowError):  # an offset outside of the file
                raise HeaderError(_CUT) from None
    if any(signature.startswith(data) for signatures, _ in _READERS for signature in signatures if len(signature) > 2):
        raise HeaderError(_CUT)
    if _is_text(data[:512]):
        raise HeaderError("it contains text")
    raise HeaderError(_FOREIGN)


def _is_text(start: bytes) -> bool:
    if b"\0" in start:
        return False
    try:
        # The last letter of a longer text may be incomplete.
        codecs.getincrementaldecoder("utf-8")().decode(start, final=len(start) < 512)
    except UnicodeDecodeError:
        return False
    return True


def _read_png(data: bytes) -> Header:
    orientation, transparent, depth, color_type, size = 1, None, 8, -1, (0, 0)
    view, position = memoryview(data), 8
    while True:
        length, name = struct.unpack_from(">I4s", data, position)
        body = view[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        # libpng ignores the checksums of optional chunks.
        if name[:1].isupper() and zlib.crc32(body, zlib.crc32(name)) != checksum:
            raise HeaderError("the file is damaged: a checksum does not match")
        if name == b"IHDR" and length == 13:
            width, height, depth, color_type = struct.unpack_from(">IIBB", body)
            size = height, width
        elif name == b"tRNS" and color_type == 0 and length == 2:
            level = int.from_bytes(body, "big")
            transparent = level if depth == 16 else level * 255 // (2**depth - 1)
        elif name == b"eXIf":
            orientation = _read_orientation(bytes(body))
        elif name == b"IEND":
            return Header("PNG", orientation, transparent, size=size)
        position += 12 + length


def _read_jpeg(data: bytes) -> Header:
    orientation, size = 1, (0, 0)
    position = 2
    while True:
        start, marker, length = struct.unpack_from(">BBH", data, position)
        if start != 0xFF:
            raise HeaderError("the file is damaged: a marker is missing")
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        if marker == 0xDA:
            # Scan data escapes 0xFF, so an end marker after the start of the scan belongs to the image. Cameras append
            # data after it, and the thumbnails before the scan have end markers too.
            if data.rfind(b"\xff\xd9", position) < 0:
                raise HeaderError(_CUT)
            return Header("JPEG", orientation, size=size)
        body = data[position + 4 : position + 2 + length]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = _read_orientation(body[6:])
        elif marker in _FRAMES and len(body) >= 5:
            size = struct.unpack_from(">HH", body, 1)
        position += 2 + max(length, 2)


def _read_webp(data: bytes) -> Header:
    if data[8:12] != b"WEBP":
        raise HeaderError(_FOREIGN)
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise HeaderError(_CUT)
    orientation, size = 1, (0, 0)
    position = 12
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        start = position + 8
        if name == b"EXIF":
            orientation = _read_orientation(data[start : start + length].removeprefix(b"Exif\0\0"))
        elif size == (0, 0):
            size = _read_webp_size(name, data[start : start + 10])
        position = start + length + length % 2
    return Header("WebP", orientation, size=size)


def _read_webp_size(name: bytes, body: bytes) -> tuple[int, int]:
    """Return height and width from a canvas, lossless or lossy chunk; (0, 0) for other chunks."""
    if name == b"VP8X" and len(body) >= 10:
        return int.from_bytes(body[7:10], "little") + 1, int.from_bytes(body[4:7], "little") + 1
    if name == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if name == b"VP8 " and len(body) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return height & 0x3FFF, width & 0x3FFF
    return 0, 0


def _read_bmp(data: bytes) -> Header:
    (length,), (compression,) = struct.unpack_from("<I", data, 2), struct.unpack_from("<I", data, 30)
    # OpenCV notices missing pixels, but a run-length stream may end anywhere.
    if compression in (1, 2) and length > len(data):
        raise HeaderError(_CUT)
    # The oldest headers hold 16-bit numbers. A negative height says that the top row comes first.
    is_old = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if is_old else "<ii", data, 18)
    return Header("BMP", size=(abs(height), abs(width)))


def _read_tiff(data: bytes) -> Header:
    tags = _read_tags(data)
    depth = max(tags.get(Tag.BitsPerSample, (1,)))
    samples = tags.get(Tag.SamplesPerPixel, (1,))[0]
    photometric = tags.get(Tag.PhotometricInterpretation)
    is_cmyk = photometric == (5,)
    misread = None
    if samples == 2:
        misread = "a grey TIFF with alpha"
    elif depth > 8 and is_cmyk:
        misread = "a CMYK TIFF of more than 8 bits"
    elif depth > 8 and samples > 1 and tags.get(Tag.PlanarConfiguration) == (2,):
        misread = "a TIFF of more than 8 bits with separate colour planes"
    elif depth == 16 and tags.get(Tag.SampleFormat, (1,))[0] == 3:
        misread = "a TIFF of float16 pixels"
    # Writers that do not declare a fourth channel mean straight alpha.
    alpha = _TIFF_ALPHA.get(tags.get(Tag.ExtraSamples, ()), Alpha.STRAIGHT)
    return Header(
        "TIFF",
        alpha=Alpha.NONE if is_cmyk else alpha,
        inverted=photometric == (0,),
        misread=misread,
        size=(tags.get(Tag.ImageLength, (0,))[0], tags.get(Tag.ImageWidth, (0,))[0]),
    )


def _read_orientation(exif: bytes) -> int:
    """Return the orientation (1 to 8) in an EXIF block; 1 if it is damaged or has none."""
    try:
        value = _read_tags(exif).get(Tag.Orientation, (1,))[0]
    except (struct.error, OverflowError):
        return 1
    return value if 1 <= value <= 8 else 1


def _read_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the numeric fields of the first TIFF directory; of a duplicate field the first, as libtiff does."""
    return dict(reversed(list(_read_fields(data))))


def _read_fields(data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    order = ">" if data.startswith(b"MM") else "<"
    is_big = struct.unpack_from(order + "H", data, 2)[0] == 43
    head, entry, word, inline = ("Q", "HHQ", "Q", 8) if is_big else ("H", "HHI", "I", 4)
    (start,) = struct.unpack_from(order + word, data, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + head, data, start)
    size = struct.calcsize("<" + entry) + inline
    for index in range(count):
        position = start + struct.calcsize("<" + head) + index * size
        tag, kind, number = struct.unpack_from(order + entry, data, position)
        code = _FIELD_CODES.get(kind)
        if code is None or not 1 <= number <= _MOST_FIELD_VALUES:
            continue
        position += size - inline
        if struct.calcsize("<" + code) * number > inline:
            (position,) = struct.unpack_from(order + word, data, position)
        yield tag, struct.unpack_from(f"{order}{number}{code}", data, position)


_READERS = (
    ((b"\x89PNG\r\n\x1a\n",), _read_png),
    ((b"\xff\xd8\xff",), _read_jpeg),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _read_tiff),
    ((b"RIFF",), _read_webp),
    ((b"BM",), _read_bmp),
)
