"""Images and masks: read upright as RGB, taken from arrays, scaled to 0..1, and written as PNG."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from patchcore_plugin.errors import ImageError, TensorError

from .atomic import replacing
from .headers import Alpha, ContainerError, inspect
from .types import Rgb

__all__ = ["as_image", "read_image", "read_mask", "to_unit", "write_png"]

Array: TypeAlias = npt.NDArray[Any]

_REPLACE = "replace or remove it, or pass --on-error skip"
_CONVERT = "convert it to an 8 or 16 bit PNG, or pass --on-error skip"
_SHRINK = "make it smaller, or pass --on-error skip"

# OpenCV decodes no more, and does not say so.
_MOST_PIXELS, _LONGEST_SIDE = 2**30, 10**6

_log_lock = threading.Lock()
_log_readers = 0
_log_level = 0


def read_image(path: str | os.PathLike[str]) -> Array:
    """Read an image upright, as RGB, at its own depth.

    PNG, JPEG, BMP, TIFF and WebP are read in any mode: grey, colour, palette, 1-bit, CMYK, with alpha. Alpha
    is composited over white. EXIF orientation is applied. Of a file with several pictures, the first is read.

    Parameters
    ----------
    path : str or os.PathLike
        The file. What it is comes from its content, not from its name.

    Returns
    -------
    ndarray of uint8 or uint16, shape [H, W, 3]
        uint16 where the file has more than 8 bits per sample.

    Raises
    ------
    ImageError
        The file is missing, a folder, empty, cut short, damaged, or of a kind that cannot be read.
    """
    pixels, alpha, premultiplied = _pixels(Path(path))
    if pixels.dtype not in (np.uint8, np.uint16):
        raise _unreadable(path, f"its pixels are {pixels.dtype} numbers without a known white", _CONVERT)
    if alpha is not None:
        pixels = _over_white(pixels, alpha, premultiplied)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def read_mask(path: str | os.PathLike[str]) -> npt.NDArray[np.bool_]:
    """Read a defect mask: whatever is not zero is defect.

    A pixel of an RGB or palette mask is defect where any of its colours is not zero; of a mask with alpha,
    where in addition it is not fully transparent.

    Parameters
    ----------
    path : str or os.PathLike
        The file, of any format and mode that `read_image` reads, or a TIFF of any number type.

    Returns
    -------
    ndarray of bool, shape [H, W]

    Raises
    ------
    ImageError
        As of `read_image`.
    """
    pixels, alpha, _ = _pixels(Path(path))
    mask: npt.NDArray[np.bool_] = np.any(pixels != 0, axis=2)
    if alpha is not None:
        mask &= alpha[..., 0] != 0
    return mask


def as_image(array: npt.ArrayLike) -> Array:
    """Return a user's array in the form that `read_image` gives.

    Parameters
    ----------
    array : array_like, shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]
        Grey, RGB or RGB with straight alpha, which is composited over white. uint8, uint16, bool, or floating
        point in 0..1. It is never changed; the result may share its memory.

    Returns
    -------
    ndarray of uint8, uint16 or float32, shape [H, W, 3], contiguous
        bool becomes uint8 (0 and 255), every floating type becomes float32.

    Raises
    ------
    ImageError
        The shape or dtype is another, the array has no pixels, or its numbers are not finite and in 0..1.
    """
    pixels: Array = np.asarray(array)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        hint = "; move its channels last" if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) else ""
        raise ImageError(
            f"an array of shape {list(np.shape(array))} is not an image: pass [H, W], [H, W, 1], "
            f"[H, W, 3] (RGB) or [H, W, 4] (RGB and alpha){hint}"
        )
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif np.issubdtype(pixels.dtype, np.floating):
        # NaN compares false, so this one test refuses it as well.
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ImageError(
                f"an image of {pixels.dtype} numbers must be finite and in 0..1, but it spans "
                f"{pixels.min():g}..{pixels.max():g}: scale it, or pass uint8 or uint16"
            )
        pixels = pixels.astype(np.float32, copy=False)
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"an image of {pixels.dtype} numbers has no known white: make it uint8, uint16 or float in 0..1"
        )
    if pixels.shape[2] == 4:
        pixels = _over_white(pixels[..., :3], pixels[..., 3:], premultiplied=False)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def to_unit(image: Array) -> npt.NDArray[np.float32]:
    """Scale an image to 0..1.

    Parameters
    ----------
    image : ndarray of uint8, uint16 or float32, shape [H, W, 3]
        From `read_image` or `as_image`; float32 is in 0..1 already. It is not changed.

    Returns
    -------
    ndarray of float32, shape [H, W, 3]
        A new array: black is 0 and white is 1 at any depth.

    Raises
    ------
    ImageError
        The dtype is another.
    """
    if image.dtype == np.float32:
        return image.copy()
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"an image of {image.dtype} numbers cannot be scaled: pass it through as_image first")
    unit: npt.NDArray[np.float32] = np.divide(image, np.float32(_white(image)), dtype=np.float32)
    return unit


def write_png(path: str | os.PathLike[str], image: Array) -> None:
    """Write an image as PNG: either the whole file appears at `path`, or what was there stays.

    Parameters
    ----------
    path : str or os.PathLike
        Where to; its folder exists. The name is not changed, whatever its suffix.
    image : ndarray of uint8 or uint16, shape [H, W], [H, W, 1] or [H, W, 3]
        Grey or RGB.

    Raises
    ------
    ImageError
        The array is no such image, or the file cannot be written.
    """
    path = Path(path)
    if (
        image.dtype not in (np.uint8, np.uint16)
        or image.ndim not in (2, 3)
        or (image.ndim == 3 and image.shape[2] not in (1, 3))
        or not image.size
    ):
        raise ImageError(
            f"{_name(path)}: cannot write {image.dtype} {list(image.shape)} as PNG; "
            "pass uint8 or uint16 of shape [H, W] or [H, W, 3]"
        )
    color = image.ndim == 3 and image.shape[2] == 3
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1] if color else image))
    if not done:
        raise ImageError(f"{_name(path)}: cannot write {list(image.shape)} as PNG; make the image smaller")
    try:
        with replacing(path) as unfinished:
            unfinished.write_bytes(encoded.tobytes())
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"{_name(path)}: cannot be written ({reason}); check the folder") from error


def _pixels(path: Path) -> tuple[Array, Array | None, bool]:
    """Return colours [H, W, 1 or 3] as RGB, alpha [H, W, 1] or None, and whether it is multiplied in."""
    data = _bytes(path)
    try:
        container = inspect(data)
    except ContainerError as error:
        raise _unreadable(path, str(error), _REPLACE) from None
    if container.misread:
        raise _unreadable(path, container.misread, _CONVERT)
    height, width = container.size
    if height * width > _MOST_PIXELS or max(height, width) > _LONGEST_SIDE:
        raise _unreadable(path, f"{width:,} x {height:,} pixels are more than can be read", _SHRINK)
    pixels = _decode(data)
    if pixels is None:
        raise _unreadable(path, "the file is cut short, damaged, or of a rare kind", _REPLACE)
    pixels = _upright(pixels.reshape(*pixels.shape[:2], -1), container.orientation)
    if container.inverted and pixels.dtype == np.uint16:
        # OpenCV turns black and white back for 8 bits and fewer only.
        pixels = _white(pixels) - pixels
    if container.transparent_grey is not None and pixels.shape[2] == 1:
        alpha = np.where(pixels == container.transparent_grey, 0, _white(pixels)).astype(pixels.dtype)
        return pixels, alpha, False
    if pixels.shape[2] < 4:
        return pixels[..., ::-1], None, False
    colors, alpha = pixels[..., 2::-1], pixels[..., 3:]
    if container.alpha is Alpha.NONE:
        return colors, None, False
    # The TIFF library multiplies straight alpha of 8 bits in, and leaves deeper alpha as it is stored.
    by_library = container.alpha is Alpha.STRAIGHT_TIFF and pixels.dtype == np.uint8
    return colors, alpha, by_library or container.alpha is Alpha.PREMULTIPLIED


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{_name(path)}: no such file; check the path, or pass --on-error skip") from None
    except OSError as error:
        if path.is_dir():
            raise ImageError(f"{_name(path)}: a folder, not an image; name a file in it") from None
        reason = error.strerror or str(error)
        raise ImageError(
            f"{_name(path)}: cannot be opened ({reason}); check its permissions, or pass --on-error skip"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence OpenCV's own messages while any thread is inside; the last one out restores the level."""
    global _log_readers, _log_level
    # OpenCV 5 moved the functions into a module of their own.
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


def _decode(data: bytes) -> Array | None:
    """Return what OpenCV makes of the bytes, in BGR(A) order and as the samples lie; None where it cannot."""
    with _quiet():
        try:
            decoded: Array | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            return None
    return decoded


def _upright(pixels: Array, orientation: int) -> Array:
    """Undo an EXIF orientation (1 to 8) of pixels [H, W, C]."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _white(pixels: Array) -> Any:
    """Return the number that stands for white, in the dtype of `pixels`."""
    return pixels.dtype.type(np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1)


def _over_white(colors: Array, alpha: Array, premultiplied: bool) -> Array:
    """Composite colours [H, W, 1 or 3] with alpha [H, W, 1] over white, rounded at their own depth."""
    white = _white(colors)
    result: Array
    if premultiplied:
        # A colour above its alpha is against the rules of the format; the sum must not wrap around.
        result = white - alpha + np.minimum(colors, alpha)
    elif colors.dtype.kind == "f":
        result = np.clip(colors * alpha + (white - alpha), 0, 1)
    else:
        # 65535 * 65535 and half of 65535 just fit into 32 bits.
        wide, opacity = colors.astype(np.uint32), alpha.astype(np.uint32)
        result = ((wide * opacity + white * (white - opacity) + white // 2) // white).astype(colors.dtype)
    return result


def _unreadable(path: str | os.PathLike[str], reason: str, advice: str) -> ImageError:
    return ImageError(f"{_name(path)}: not a readable image ({reason}); {advice}")


def _name(path: str | os.PathLike[str]) -> str:
    """Return a path on one line: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in os.fspath(path))


def to_8_bit(image: npt.NDArray[Any]) -> Rgb:
    """Return an RGB image [H, W, 3] of uint8, uint16 or floating point as uint8, black and white kept.

    Raises
    ------
    TensorError
        If the shape or dtype is another one.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise TensorError(f"image: expected shape [H, W, 3], got {list(image.shape)}")
    if image.dtype == np.uint8:
        return np.asarray(image, dtype=np.uint8)
    if image.dtype == np.uint16:
        return np.asarray(np.rint(image / np.float32(257)), dtype=np.uint8)
    if np.issubdtype(image.dtype, np.floating):
        return np.asarray(np.rint(np.nan_to_num(np.clip(image, 0, 1)) * 255), dtype=np.uint8)
    raise TensorError(f"image: expected uint8, uint16 or floating point, got {image.dtype}")
