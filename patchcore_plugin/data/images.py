"""Images and masks as arrays: read upright as RGB, converted, scaled to 0..1, and written as PNG."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from patchcore_plugin.errors import ImageError, TensorError

from .atomic import atomic_write
from .decoding import CONVERT, Layers, decode, escape, unreadable, white_level
from .encoding import encode_png
from .types import Rgb

Array: TypeAlias = npt.NDArray[Any]


def read_image(path: str | os.PathLike[str]) -> Array:
    """Read an image file upright, as RGB, at its own depth.

    PNG, JPEG, BMP, TIFF and WebP are supported in every mode: grey, colour, palette, 1-bit, CMYK, with alpha. Alpha is
    composited over white, and the EXIF orientation is applied. Of a file with several images, the first is read.

    Parameters
    ----------
    path : str or os.PathLike
        The file. Its content decides the format, not its name.

    Returns
    -------
    ndarray of uint8 or uint16, shape [H, W, 3]
        uint16 if the file has more than 8 bits per sample.

    Raises
    ------
    ImageError
        If the file is missing, a folder, empty, cut short, damaged, or of an unsupported kind.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_png(f"{folder}/grey.png", np.full((2, 4), 90, np.uint8))
    ...     image = read_image(f"{folder}/grey.png")
    >>> image.shape, image[0, 0].tolist()
    ((2, 4, 3), [90, 90, 90])
    """
    path = Path(path)
    layers = decode(path)
    if layers.colors.dtype not in (np.uint8, np.uint16):
        raise unreadable(path, f"its pixels are {layers.colors.dtype}, whose white is not defined", CONVERT)
    return _expand_to_rgb(layers.over_white())


def read_mask(path: str | os.PathLike[str]) -> npt.NDArray[np.bool_]:
    """Read a defect mask: every pixel that is not black is defective.

    A pixel of an RGB or palette mask is defective if any of its colours is not zero. With alpha, fully transparent
    pixels are not defective.

    Parameters
    ----------
    path : str or os.PathLike
        A file of any format and mode that `read_image` supports, or a TIFF of any number type.

    Returns
    -------
    ndarray of bool, shape [H, W]

    Raises
    ------
    ImageError
        If the file is missing, a folder, empty, cut short, damaged, or of an unsupported kind.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_png(f"{folder}/mask.png", np.array([[0, 1, 255]], np.uint8))
    ...     read_mask(f"{folder}/mask.png").tolist()
    [[False, True, True]]
    """
    layers = decode(Path(path))
    mask: npt.NDArray[np.bool_] = np.any(layers.colors != 0, axis=2)
    if layers.alpha is not None:
        mask &= layers.alpha[..., 0] != 0
    return mask


def as_image(array: npt.ArrayLike) -> Array:
    """Convert an array to the form that `read_image` returns.

    Parameters
    ----------
    array : array_like, shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]
        Grey, RGB, or RGB with straight alpha, which is composited over white. uint8, uint16, bool, or floating point in
        0..1. It is never changed; the result may share its memory.

    Returns
    -------
    ndarray of uint8, uint16 or float32, shape [H, W, 3], contiguous
        bool becomes uint8 (0 and 255), every floating-point type becomes float32.

    Raises
    ------
    ImageError
        If the shape or dtype is not supported, the array has no pixels, or its values are not finite and in 0..1.

    Examples
    --------
    >>> as_image([[True, False]])[0].tolist()
    [[255, 255, 255], [0, 0, 0]]
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
        # Comparisons with NaN are false, so NaN is refused too.
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ImageError(
                f"values of a {pixels.dtype} image must be finite and in 0..1, but they span "
                f"{pixels.min():g}..{pixels.max():g}: scale them, or pass uint8 or uint16"
            )
        pixels = pixels.astype(np.float32, copy=False)
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"images of dtype {pixels.dtype} are not supported: pass uint8, uint16 or float in 0..1")
    if pixels.shape[2] == 4:
        pixels = Layers(pixels[..., :3], pixels[..., 3:]).over_white()
    return _expand_to_rgb(pixels)


def to_unit(image: Array) -> npt.NDArray[np.float32]:
    """Scale an image to 0..1: black becomes 0 and white 1 at every depth.

    Parameters
    ----------
    image : ndarray of uint8, uint16 or float32, shape [H, W, 3]
        From `read_image` or `as_image`; float32 is in 0..1 already. It is not changed.

    Returns
    -------
    ndarray of float32, shape [H, W, 3]
        A new array.

    Raises
    ------
    ImageError
        If the dtype is not one of these.

    Examples
    --------
    >>> to_unit(np.array([[[0, 51, 255]]], np.uint8)).round(2).tolist()
    [[[0.0, 0.20000000298023224, 1.0]]]
    """
    if image.dtype == np.float32:
        return image.copy()
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"an image of dtype {image.dtype} cannot be scaled: pass it through as_image first")
    unit: npt.NDArray[np.float32] = np.divide(image, np.float32(white_level(image)), dtype=np.float32)
    return unit


def to_8_bit(image: Array) -> Rgb:
    """Convert an RGB image to uint8; black and white stay black and white.

    Parameters
    ----------
    image : ndarray of uint8, uint16 or floating point in 0..1, shape [H, W, 3]
        Floating-point values outside of 0..1 are clipped, and NaN becomes 0.

    Returns
    -------
    ndarray of uint8, shape [H, W, 3]

    Raises
    ------
    TensorError
        If the shape or dtype is not one of these.

    Examples
    --------
    >>> to_8_bit(np.array([[[0.0, 0.2, 1.0]]])).tolist()
    [[[0, 51, 255]]]
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


def write_png(path: str | os.PathLike[str], image: Array) -> None:
    """Write an image as a PNG file atomically: on failure, the previous file at `path` stays.

    Parameters
    ----------
    path : str or os.PathLike
        Its folder must exist. The name is used unchanged, with any suffix.
    image : ndarray of uint8 or uint16, shape [H, W], [H, W, 1] or [H, W, 3]
        Grey or RGB.

    Raises
    ------
    ImageError
        If the shape or dtype is not one of these, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_png(f"{folder}/black.png", np.zeros((8, 8, 3), np.uint8))
    """
    path = Path(path)
    if (
        image.dtype not in (np.uint8, np.uint16)
        or image.ndim not in (2, 3)
        or (image.ndim == 3 and image.shape[2] not in (1, 3))
        or not image.size
    ):
        raise ImageError(
            f"{escape(path)}: cannot write {image.dtype} {list(image.shape)} as PNG; "
            "pass uint8 or uint16 of shape [H, W] or [H, W, 3]"
        )
    try:
        with atomic_write(path) as unfinished:
            unfinished.write_bytes(encode_png(image))
    except ImageError as error:
        raise ImageError(f"{escape(path)}: {error}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"{escape(path)}: cannot be written ({reason}); check the folder") from error


def _expand_to_rgb(pixels: Array) -> Array:
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
