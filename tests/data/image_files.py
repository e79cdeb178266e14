"""Image files of every format and mode, among them some that Pillow and OpenCV do not write."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchcore_plugin.data.images import read_image

Array = npt.NDArray[Any]
H, W = 13, 17
GREY = np.linspace(0, 255, H * W).reshape(H, W).astype(np.uint8)
RGB = np.stack([GREY, 255 - GREY, GREY // 2 + 30], axis=2)
ALPHA = np.tile(np.linspace(0, 255, W).astype(np.uint8), (H, 1))


def draw(mode: str) -> Image.Image:
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


def encode(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def over_white(colors: Array, alpha: Array, white: int = 255) -> Array:
    opacity = (alpha / white)[..., None]
    return np.rint(colors * opacity + white * (1 - opacity))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(size: tuple[int, int], depth: int, color_type: int, rows: bytes, *extra: bytes) -> bytes:
    """Return a PNG file of any depth and colour type."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color_type, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + body + chunk(b"IEND", b"")


def tiff(
    pixels: Array, photometric: int, *, planes: bool = False, order: str = "<", **fields: tuple[int, ...]
) -> bytes:
    """Return an uncompressed TIFF file with optional fields: extra, format, orientation."""
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


def write_and_read(folder: Path, data: bytes, name: str = "image") -> Array:
    path = folder / name
    path.write_bytes(data)
    return read_image(path)
