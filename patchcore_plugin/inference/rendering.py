"""Pictures of anomaly maps, on a scale that the caller fixes for a whole run.

A scale per image would stretch the noise of a good part over all colours and make it look defective.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from patchcore_plugin.data.images import to_8_bit
from patchcore_plugin.data.types import Rgb
from patchcore_plugin.errors import TensorError
from patchcore_plugin.models.regions import Region

Scale = tuple[float, float]
"""The values of a map that are drawn as "nothing" and as "most", in the units of the map."""

STRONGEST = 0.65
"""Opacity of the heat at the top of the scale: the defect must stay visible beneath its own heat."""
_DARK, _BRIGHT = (0, 0, 0), (80, 255, 255)
"""Lines: cyan, as the colours of heat have no such hue."""


def heat_map(anomaly_map: npt.NDArray[np.floating[Any]], scale: Scale) -> Rgb:
    """Return the map in colours, RGB uint8 [H, W, 3].

    The colours are "inferno": black, purple, orange, yellow. Its lightness rises evenly, so that equal steps
    of the map look equal, also to colour-blind eyes and on a grey print.

    Parameters
    ----------
    anomaly_map
        Anomaly scores, floating point [H, W]. NaN is drawn as the top of the scale: what could not be
        computed must not look good.
    scale
        Values drawn as the first and the last colour; what lies beyond takes the colour of the nearer end.

    Raises
    ------
    TensorError
        If the map is not [H, W], or the scale is not two finite numbers in ascending order.
    """
    return _colours(_share(anomaly_map, scale))


def overlay(image: npt.NDArray[Any], anomaly_map: npt.NDArray[np.floating[Any]], scale: Scale) -> Rgb:
    """Return the image with its heat on top, RGB uint8 [H, W, 3].

    Opacity grows with the value: at or below the lower end of the scale the image is as it was taken.

    Parameters
    ----------
    image
        RGB [H, W, 3]: uint8, uint16 (65535 is white), or floating point (1 is white).
    anomaly_map
        Anomaly scores, floating point [H, W], of the image's size.
    scale
        As for `heat_map`.

    Raises
    ------
    TensorError
        As for `heat_map`, and if image and map do not fit or the image has another dtype.
    """
    base = to_8_bit(image)
    if base.shape[:2] != anomaly_map.shape:
        raise TensorError(
            f"overlay: expected a map of the image's size {list(base.shape[:2])}, got {list(anomaly_map.shape)}"
        )
    share = _share(anomaly_map, scale)
    opacity = (STRONGEST * share)[..., None]
    mixed = base + opacity * (_colours(share).astype(np.float32) - base)
    return np.rint(mixed).astype(np.uint8)


def outlined(picture: Rgb, outlines: Iterable[npt.NDArray[Any]]) -> Rgb:
    """Return a picture with outlines: bright lines between dark ones, to be seen on light and on dark images.

    Parameters
    ----------
    picture
        RGB uint8 [H, W, 3].
    outlines
        Closed polygons, each [N, 2] of positions (x, y) from the picture's top left corner, which is (0, 0), to its
        bottom right one, (W, H).
    """
    drawn = np.ascontiguousarray(picture).copy()
    height, width = drawn.shape[:2]
    # On whole pixels: between them a thin line would be spread over two, and dim.
    points = [np.clip(each, 0, (width - 1, height - 1)).astype(np.int32) for each in outlines]
    # As thin on a large image that is looked at as a whole.
    thin = 1 + min(height, width) // 500
    for colour, thickness in ((_DARK, 2 * thin + 1), (_BRIGHT, thin)):
        cv2.polylines(drawn, points, True, colour, thickness)
    return drawn


def with_regions(picture: Rgb, regions: Iterable[Region]) -> Rgb:
    """Return a picture of an image, RGB uint8 [H, W, 3], with the outlines of its regions and boxes around them."""
    outlines = []
    for region in regions:
        right, bottom = region.x + region.width, region.y + region.height
        outlines += [
            np.array(region.contour),
            np.array([[region.x, region.y], [region.x, bottom], [right, bottom], [right, region.y]]),
        ]
    return outlined(picture, outlines)


def colour_bar(width: int = 256, height: int = 16) -> Rgb:
    """Return the colours of the scale, its lower end at the left, RGB uint8 [height, width, 3]."""
    return _colours(np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1)))


def _share(anomaly_map: npt.NDArray[np.floating[Any]], scale: Scale) -> npt.NDArray[np.float32]:
    """Return how far up the scale each value is, float32 [H, W] in 0..1."""
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


def _colours(share: npt.NDArray[np.float32]) -> Rgb:
    levels = np.rint(share * 255).astype(np.uint8)
    bgr = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)
