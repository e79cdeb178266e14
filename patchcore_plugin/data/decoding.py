"""Decode image files with OpenCV into colour and alpha, upright and as RGB."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from patchcore_plugin.errors import ImageError

from .headers import Alpha, HeaderError, read_header

Array: TypeAlias = npt.NDArray[Any]

CONVERT = "convert it to an 8 or 16 bit PNG, or pass --on-error skip"
_REPLACE = "replace or remove it, or pass --on-error skip"
_SHRINK = "make it smaller, or pass --on-error skip"

# OpenCV decodes no larger image, without a message.
_MOST_PIXELS, _LONGEST_SIDE = 2**30, 10**6

_log_lock = threading.Lock()
_log_readers = 0
_log_level = 0


class Layers(NamedTuple):
    """A decoded image: colours [H, W, 1 or 3] as RGB, and alpha [H, W, 1] of the same dtype, if it has any."""

    colors: Array
    alpha: Array | None = None
    is_premultiplied: bool = False

    def over_white(self) -> Array:
        """Return the colours composited over white, rounded at their own depth."""
        colors, alpha = self.colors, self.alpha
        if alpha is None:
            return colors
        white = white_level(colors)
        result: Array
        if self.is_premultiplied:
            # Colours above their alpha violate the format; the sum must not wrap around.
            result = white - alpha + np.minimum(colors, alpha)
        elif colors.dtype.kind == "f":
            result = np.clip(colors * alpha + (white - alpha), 0, 1)
        else:
            # 65535 * 65535 plus half of 65535 just fits into 32 bits.
            wide, opacity = colors.astype(np.uint32), alpha.astype(np.uint32)
            result = ((wide * opacity + white * (white - opacity) + white // 2) // white).astype(colors.dtype)
        return result


def decode(path: Path) -> Layers:
    """Read and decode an image file.

    Parameters
    ----------
    path : Path
        The file; its content decides the format.

    Returns
    -------
    Layers
        In the number type of the file, not necessarily uint8 or uint16.

    Raises
    ------
    ImageError
        If the file is missing, a folder, empty, cut short, damaged, too large or of an unsupported kind.
    """
    data = _read_bytes(path)
    try:
        header = read_header(data)
    except HeaderError as error:
        raise unreadable(path, str(error), _REPLACE) from None
    if header.misread:
        raise unreadable(path, header.misread, CONVERT)
    height, width = header.size
    if height * width > _MOST_PIXELS or max(height, width) > _LONGEST_SIDE:
        raise unreadable(path, f"{width:,} x {height:,} pixels exceed what can be read", _SHRINK)
    pixels = _decode_bytes(data)
    if pixels is None:
        raise unreadable(path, "the file is cut short, damaged, or of an unsupported kind", _REPLACE)
    pixels = _rotate_upright(pixels.reshape(*pixels.shape[:2], -1), header.orientation)
    if header.inverted and pixels.dtype == np.uint16:
        # OpenCV inverts up to 8 bits only.
        pixels = white_level(pixels) - pixels
    if header.transparent_grey is not None and pixels.shape[2] == 1:
        alpha = np.where(pixels == header.transparent_grey, 0, white_level(pixels)).astype(pixels.dtype)
        return Layers(pixels, alpha)
    if pixels.shape[2] < 4:
        return Layers(pixels[..., ::-1])
    colors, alpha = pixels[..., 2::-1], pixels[..., 3:]
    if header.alpha is Alpha.NONE:
        return Layers(colors)
    # The TIFF library premultiplies straight alpha of 8 bits, and returns deeper alpha as stored.
    by_library = header.alpha is Alpha.STRAIGHT_TIFF and pixels.dtype == np.uint8
    return Layers(colors, alpha, by_library or header.alpha is Alpha.PREMULTIPLIED)


def white_level(pixels: Array) -> Any:
    """Return the number that stands for white, in the dtype of `pixels`."""
    return pixels.dtype.type(np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1)


def unreadable(path: Path, reason: str, advice: str) -> ImageError:
    """Return the error for a file that cannot be read as an image.

    Parameters
    ----------
    path
        The file.
    reason
        What is wrong with it.
    advice
        What to do about it.
    """
    return ImageError(f"{escape(path)}: not a readable image ({reason}); {advice}")


def escape(path: Path) -> str:
    """Return a path on one line, with characters that cannot be printed escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{escape(path)}: no such file; check the path, or pass --on-error skip") from None
    except OSError as error:
        if path.is_dir():
            raise ImageError(f"{escape(path)}: a folder, not an image; pass a file in it") from None
        reason = error.strerror or str(error)
        raise ImageError(
            f"{escape(path)}: cannot be opened ({reason}); check its permissions, or pass --on-error skip"
        ) from None


@contextmanager
def _silence_opencv() -> Iterator[None]:
    """Silence the log of OpenCV while any thread is inside; the last one restores the level."""
    global _log_readers, _log_level
    # OpenCV 5 moved the functions into a module.
    log: Any = getattr(cv2.utils, "logging", cv2)
    with _log_lock:
        if not _log_readers:
            _log_level = log.getLogLevel()
            log.setLogLevel(0)
        _log_readers += 1
    try:
        yield
    finally:
        with _log_lock:
            _log_readers -= 1
            if not _log_readers:
                log.setLogLevel(_log_level)


def _decode_bytes(data: bytes) -> Array | None:
    """Return the samples as stored, in BGR(A) order; None if OpenCV cannot decode them."""
    with _silence_opencv():
        try:
            pixels: Array | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            return None
    return pixels


def _rotate_upright(pixels: Array, orientation: int) -> Array:
    """Undo an EXIF orientation (1 to 8) of pixels [H, W, C]."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
