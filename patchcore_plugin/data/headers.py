"""What an image's file says about itself: format, size, rotation, and whether all of it is there.

Only headers are read here; pixels are OpenCV's. It is needed because OpenCV returns a half-grey picture for a
cut JPEG, does not rotate images that it reads together with their alpha, and misreads a few kinds of TIFF.
"""

from __future__ import annotations

import codecs
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["Alpha", "Container", "ContainerError", "inspect"]

_CUT = "the file is cut short"

# Numbers of the TIFF fields that decide how samples are to be understood, and their values.
_WIDTH, _HEIGHT, _BITS, _IMAGEMETRIC, _ORIENTATION, _SAMPLES, _PLANAR, _EXTRA, _SAMPLE_FORMAT = (
    256,
    257,
    258,
    262,
    274,
    277,
    284,
    338,
    339,
)
_WHITE_IS_ZERO, _CMYK, _SEPARATE_PLANES, _FLOAT = (0,), (5,), (2,), (3,)
_EXTRA_IS_NO_ALPHA, _EXTRA_IS_PREMULTIPLIED, _EXTRA_IS_STRAIGHT = (0,), (1,), (2,)

# Bytes of one value of the TIFF field types that hold the numbers asked for here.
_FIELD_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_LONGEST_FIELD = 64

# JPEG markers that start a frame: all from C0 to CF but for tables and the reserved one.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class ContainerError(ValueError):
    """The bytes are not a whole image; the message is the reason, without a file name."""


class Alpha(Enum):
    """What a fourth channel is, if the image has one."""

    STRAIGHT = auto()
    STRAIGHT_TIFF = auto()  # declared so, which the TIFF library acts on
    PREMULTIPLIED = auto()
    NONE = auto()


@dataclass(frozen=True)
class Container:
    """What the headers of one image say.

    Attributes
    ----------
    format : str
        "PNG", "JPEG", "BMP", "TIFF" or "WebP".
    orientation : int
        EXIF orientation, 1 to 8, that the reader must apply. It is 1 for TIFF, which OpenCV turns itself.
    transparent_grey : int or None
        The grey level, scaled to the decoded depth, that a grey PNG declares transparent.
    alpha : Alpha
        What a fourth channel is.
    inverted : bool
        Zero is white.
    misread : str or None
        Why OpenCV would return wrong pixels; None where it returns right ones.
    size : tuple of int
        Height and width as they are stored, before any rotation; (0, 0) where the file does not say.
    """

    format: str
    orientation: int = 1
    transparent_grey: int | None = None
    alpha: Alpha = Alpha.STRAIGHT
    inverted: bool = False
    misread: str | None = None
    size: tuple[int, int] = (0, 0)


def inspect(data: bytes) -> Container:
    """Read the headers of an image.

    Parameters
    ----------
    data : bytes
        The whole file.

    Returns
    -------
    Container

    Raises
    ------
    ContainerError
        The file is empty, of no known format, or its end is missing.
    """
    if not data:
        raise ContainerError("the file is empty")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _tiff(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith(b"BM"):
        return _bmp(data)
    raise ContainerError(_foreign(data))


def _foreign(data: bytes) -> str:
    """Return the reason why bytes of no known format are refused."""
    known = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
    if any(signature.startswith(data) for signature in known):
        return _CUT
    head = data[:512]
    if b"\0" not in head:
        try:
            # Not the last word on the bytes: the cut at 512 may split a letter.
            codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < 512)
        except UnicodeDecodeError:
            pass
        else:
            return "it holds text"
    return "it is no PNG, JPEG, BMP, TIFF or WebP file, whatever its name says"


def _png(data: bytes) -> Container:
    orientation, transparent, depth, kind, size = 1, None, 8, -1, (0, 0)
    position = 8
    while True:
        if position + 12 > len(data):
            raise ContainerError(_CUT)
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise ContainerError(_CUT)
        body = memoryview(data)[position + 8 : end]
        critical = name[:1].isupper()
        if critical and zlib.crc32(body, zlib.crc32(name)) != struct.unpack_from(">I", data, end)[0]:
            raise ContainerError("the file is damaged: a checksum does not match")
        if name == b"IHDR" and length == 13:
            depth, kind = body[8], body[9]
            width, height = struct.unpack_from(">II", body)
            size = height, width
        elif name == b"tRNS" and kind == 0 and length == 2:
            level = int.from_bytes(body, "big")
            transparent = level if depth == 16 else level * 255 // (2**depth - 1)
        elif name == b"eXIf":
            orientation = _exif_orientation(bytes(body))
        elif name == b"IEND":
            return Container("PNG", orientation, transparent, size=size)
        position = end + 4


def _jpeg(data: bytes) -> Container:
    orientation, size = 1, (0, 0)
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise ContainerError("the file is damaged: a marker is missing")
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        if marker == 0xDA:
            # Scan data escapes every 0xFF, so an end marker behind the scan's start is a real one. Cameras
            # append other data behind it, and thumbnails before the scan have their own.
            if data.rfind(b"\xff\xd9", position) < 0:
                raise ContainerError(_CUT)
            return Container("JPEG", orientation, size=size)
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = data[position + 4 : position + 2 + length]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(body[6:])
        elif marker in _FRAMES and len(body) >= 5:
            size = struct.unpack_from(">HH", body, 1)
        position += 2 + max(length, 2)
    raise ContainerError(_CUT)


def _webp(data: bytes) -> Container:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise ContainerError(_CUT)
    orientation, canvas = 1, (0, 0)
    position = 12
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"EXIF":
            body = data[position + 8 : position + 8 + length]
            orientation = _exif_orientation(body.removeprefix(b"Exif\0\0"))
        elif canvas == (0, 0):
            canvas = _webp_size(name, data[position + 8 : position + 18])
        position += 8 + length + length % 2
    return Container("WebP", orientation, size=canvas)


def _webp_size(name: bytes, body: bytes) -> tuple[int, int]:
    """Return the size that a chunk states: that of the canvas, or of a lossless or lossy picture; (0, 0) if none."""
    if name == b"VP8X" and len(body) >= 10:
        return int.from_bytes(body[7:10], "little") + 1, int.from_bytes(body[4:7], "little") + 1
    if name == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if name == b"VP8 " and len(body) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return height & 0x3FFF, width & 0x3FFF
    return 0, 0


def _bmp(data: bytes) -> Container:
    if len(data) < 34:
        raise ContainerError(_CUT)
    size, compression = struct.unpack_from("<I", data, 2)[0], struct.unpack_from("<I", data, 30)[0]
    # OpenCV counts plain pixels itself; a run-length stream may end anywhere, so its stated size counts.
    if compression in (1, 2) and size > len(data):
        raise ContainerError(_CUT)
    # The oldest headers hold 16-bit numbers; a negative height says that the top row comes first.
    old = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    return Container("BMP", size=(abs(height), abs(width)))


def _tiff(data: bytes) -> Container:
    tags = _tiff_tags(data)
    if tags is None:
        raise ContainerError(_CUT)
    deep = max(tags.get(_BITS, (1,))) > 8
    samples = tags.get(_SAMPLES, (1,))[0]
    cmyk = tags.get(_IMAGEMETRIC) == _CMYK
    misread = None
    if samples == 2:
        misread = "a grey TIFF with alpha"
    elif deep and cmyk:
        misread = "a CMYK TIFF of more than 8 bits"
    elif deep and samples > 1 and tags.get(_PLANAR) == _SEPARATE_PLANES:
        misread = "a TIFF of more than 8 bits with separate colour planes"
    elif max(tags.get(_BITS, (1,))) == 16 and tags.get(_SAMPLE_FORMAT, (1,))[:1] == _FLOAT:
        misread = "its pixels are float16 numbers without a known white"
    kinds: dict[tuple[int, ...], Alpha] = {
        _EXTRA_IS_NO_ALPHA: Alpha.NONE,
        _EXTRA_IS_PREMULTIPLIED: Alpha.PREMULTIPLIED,
        _EXTRA_IS_STRAIGHT: Alpha.STRAIGHT_TIFF,
    }
    # Files that say nothing about their fourth channel come from writers that mean straight alpha.
    alpha = kinds.get(tags.get(_EXTRA, ()), Alpha.STRAIGHT)
    return Container(
        "TIFF",
        alpha=Alpha.NONE if cmyk else alpha,
        inverted=tags.get(_IMAGEMETRIC) == _WHITE_IS_ZERO,
        misread=misread,
        size=(tags.get(_HEIGHT, (0,))[0], tags.get(_WIDTH, (0,))[0]),
    )


def _exif_orientation(exif: bytes) -> int:
    """Return the orientation (1 to 8) in an EXIF block; 1 where it has none or is damaged."""
    value = (_tiff_tags(exif) or {}).get(_ORIENTATION, (1,))[0]
    return value if 1 <= value <= 8 else 1


def _tiff_tags(data: bytes) -> dict[int, tuple[int, ...]] | None:
    """Return the numeric fields of the first directory; None where the directory lies outside of `data`."""
    try:
        # Of a field that is there twice the first counts, as it does for the TIFF library.
        return dict(reversed(list(_tiff_fields(data))))
    except struct.error:
        return None


def _tiff_fields(data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    order = ">" if data.startswith(b"MM") else "<"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    head, entry, word, inline = ("Q", "HHQ", "Q", 8) if big else ("H", "HHI", "I", 4)
    (start,) = struct.unpack_from(order + word, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + head, data, start)
    size = struct.calcsize("<" + entry) + inline
    for index in range(count):
        at = start + struct.calcsize("<" + head) + index * size
        tag, kind, number = struct.unpack_from(order + entry, data, at)
        code = _FIELD_TYPES.get(kind)
        if code is None or not 1 <= number <= _LONGEST_FIELD:
            continue
        at += size - inline
        if struct.calcsize("<" + code) * number > inline:
            (at,) = struct.unpack_from(order + word, data, at)
        yield tag, struct.unpack_from(f"{order}{number}{code}", data, at)
