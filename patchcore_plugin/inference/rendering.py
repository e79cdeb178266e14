"""Pictures of anomaly maps, on one colour scale for a whole run.

A separate scale per image would stretch the noise of a good part over all colours and make it look defective.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from patchcore_plugin.data.images import to_8_bit
from patchcore_plugin.data.types import Rgb
from patchcore_plugin.errors import TensorError

if TYPE_CHECKING:
    from patchcore_plugin.models.regions import Region

Scale = tuple[float, float]
"""Map values drawn in the first and the last colour."""

MAX_OPACITY = 0.65
"""Opacity of the heat at the top of the scale; below 1, so that the defect stays visible."""
_DARK, _BRIGHT = (0, 0, 0), (80, 255, 255)
"""Colours of outlines. The bright one is cyan, which the heat colours do not contain."""


def heat_map(anomaly_map: npt.NDArray[np.floating[Any]], scale: Scale) -> Rgb:
    """Return an anomaly map in the colours of "inferno".

    The lightness of "inferno" (black, purple, orange, yellow) rises evenly, so equal steps of the map look equal, also
    to colour-blind readers and in greyscale print.

    Parameters
    ----------
    anomaly_map
        Anomaly scores, floating point [H, W]. NaN is drawn as the top of the scale, because a value that could not be
        computed must not look good.
    scale
        Values drawn in the first and the last colour. Values outside the scale take the nearer of the two.

    Returns
    -------
    ndarray of uint8, shape [H, W, 3]
        RGB.

    Raises
    ------
    TensorError
        If the map is not [H, W], or the scale is not two finite numbers in ascending order.

    Examples
    --------
    >>> heat_map(np.array([[0.0, 1.0]], dtype=np.float32), (0.0, 1.0))[0].tolist()
    [[0, 0, 4], [252, 255, 164]]
    """
    return _colour(_position(anomaly_map, scale))


def overlay(image: npt.NDArray[Any], anomaly_map: npt.NDArray[np.floating[Any]], scale: Scale) -> Rgb:
    """Return an image with its heat map on top.

    Opacity grows with the map value. Where the map is at or below the lower end of the scale, the image is unchanged.

    Parameters
    ----------
    image
        RGB [H, W, 3]: uint8, uint16 (65535 is white), or floating point (1 is white).
    anomaly_map
        Anomaly scores, floating point [H, W].
    scale
        Map values drawn in the first and the last colour.

    Returns
    -------
    ndarray of uint8, shape [H, W, 3]
        RGB.

    Raises
    ------
    TensorError
        If image and map differ in size, or `heat_map` or `to_8_bit` refuses one of them.

    Examples
    --------
    >>> image = np.full((1, 2, 3), 200, dtype=np.uint8)
    >>> overlay(image, np.array([[0.0, 1.0]], dtype=np.float32), (0.0, 1.0))[0].tolist()
    [[200, 200, 200], [234, 236, 177]]
    """
    base = to_8_bit(image)
    if base.shape[:2] != anomaly_map.shape:
        raise TensorError(
            f"overlay: expected a map of the image's size {list(base.shape[:2])}, got {list(anomaly_map.shape)}"
        )
    position = _position(anomaly_map, scale)
    opacity = (MAX_OPACITY * position)[..., None]
    mixed = base + opacity * (_colour(position).astype(np.float32) - base)
    return np.rint(mixed).astype(np.uint8)


def draw_outlines(picture: Rgb, outlines: Iterable[npt.NDArray[Any]]) -> Rgb:
    """Return a copy of a picture with closed outlines: bright lines on dark ones, visible on any background.

    Parameters
    ----------
    picture
        RGB uint8 [H, W, 3].
    outlines
        Closed polygons, each [N, 2]: positions (x, y) from the top left corner (0, 0) to the bottom right one (W, H).

    Returns
    -------
    ndarray of uint8, shape [H, W, 3]
        RGB.
    """
    canvas = np.ascontiguousarray(picture).copy()
    height, width = canvas.shape[:2]
    # Whole pixels: a thin line between two of them would be spread over both and look dim.
    polygons = [np.clip(outline, 0, (width - 1, height - 1)).astype(np.int32) for outline in outlines]
    # Lines of a large image are thicker, because it is shown scaled down.
    thin = 1 + min(height, width) // 500
    for colour, thickness in ((_DARK, 2 * thin + 1), (_BRIGHT, thin)):
        cv2.polylines(canvas, polygons, True, colour, thickness)
    return canvas


def draw_regions(picture: Rgb, regions: Iterable[Region]) -> Rgb:
    """Return a copy of an image's picture with the outline and the bounding box of each region.

    Parameters
    ----------
    picture
        RGB uint8 [H, W, 3].
    regions
        The image's regions.

    Returns
    -------
    ndarray of uint8, shape [H, W, 3]
        RGB.
    """
    outlines = []
    for region in regions:
        right, bottom = region.x + region.width, region.y + region.height
        outlines += [
            np.array(region.contour),
            np.array([[region.x, region.y], [region.x, bottom], [right, bottom], [right, region.y]]),
        ]
    return draw_outlines(picture, outlines)


def colour_bar(width: int = 256, height: int = 16) -> Rgb:
    """Return the colours of the scale from left (lowest) to right (highest), RGB uint8 [height, width, 3].

    Parameters
    ----------
    width, height
        Size in pixels.
    """
    return _colour(np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1)))


def _position(anomaly_map: npt.NDArray[np.floating[Any]], scale: Scale) -> npt.NDArray[np.float32]:
    """Return the position of each value on the scale, float32 [H, W] in 0..1."""
    low, high = scale
    if not (np.isfinite([low, high]).all() and low <= high):
        raise TensorError(f"scale: expected two finite numbers in ascending order, got ({low}, {high})")
    if anomaly_map.ndim != 2:
        raise TensorError(f"anomaly map: expected shape [H, W], got {list(anomaly_map.shape)}")
    # Clipped first and in float64, so that neither infinities nor huge values overflow the division.
    clipped = np.clip(np.nan_to_num(anomaly_map.astype(np.float64), nan=high), low, high)
    if high == low:
        return np.asarray(~(anomaly_map <= low), dtype=np.float32)
    return ((clipped - low) / (high - low)).astype(np.float32)


def _colour(position: npt.NDArray[np.float32]) -> Rgb:
    levels = np.rint(position * 255).astype(np.uint8)
    bgr = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)
