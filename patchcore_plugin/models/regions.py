"""Connected regions of an anomaly map that are above a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Region:
    """A connected part of the map that is above the threshold; all positions in pixels of the image.

    Parameters
    ----------
    x, y, width, height
        The bounding box, its top left pixel first.
    area
        Number of pixels; those of holes do not count.
    peak, peak_x, peak_y
        The highest map value, and the pixel that has it.
    contour
        The outline as the corners (x, y) of a closed polygon along the edges of pixels: pixel (0, 0) alone has the
        outline (0, 0), (0, 1), (1, 1), (1, 0). It encloses the pixels of the region and of its holes.

    Examples
    --------
    >>> anomaly_map = np.zeros((8, 8), dtype=np.float32)
    >>> anomaly_map[2:4, 5:8] = 3.0
    >>> region = find_regions(anomaly_map, threshold=1.0)[0]
    >>> (region.x, region.y, region.width, region.height), region.area, region.peak
    ((5, 2, 3, 2), 6, 3.0)
    """

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float
    peak_x: int
    peak_y: int
    contour: tuple[tuple[int, int], ...]


def find_regions(anomaly_map: NDArray[np.float32], threshold: float) -> tuple[Region, ...]:
    """Return the 8-connected regions of a map that are above a threshold, highest peak first.

    NaN counts as below the threshold.

    Parameters
    ----------
    anomaly_map
        float32 [H, W].
    threshold
        Pixels with larger values belong to a region.
    """
    above = (anomaly_map > threshold).astype(np.uint8)
    # Skip the pixels below the threshold, which are most of a map.
    left, top, across, down = cv2.boundingRect(above)
    inner = np.s_[top : top + down, left : left + across]
    above, anomaly_map = above[inner], anomaly_map[inner]
    if not above.size:
        return ()
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    places = np.flatnonzero(above.astype(bool))
    values, numbers = anomaly_map.ravel()[places], labels.ravel()[places].astype(np.int64)
    peaks = np.full(count, -np.inf, dtype=values.dtype)
    np.maximum.at(peaks, numbers, values)
    highest = np.flatnonzero(values == peaks[numbers])[::-1]
    peak_places = np.zeros(count, dtype=np.int64)
    # Among equal values, the first in reading order is assigned last.
    peak_places[numbers[highest]] = places[highest]
    regions = []
    for number in np.lexsort((peak_places[1:], -peaks[1:])) + 1:
        x, y, width, height, area = boxes[number].tolist()
        peak_y, peak_x = divmod(int(peak_places[number]), across)
        regions.append(
            Region(
                x=left + x,
                y=top + y,
                width=width,
                height=height,
                area=area,
                peak=float(peaks[number]),
                peak_x=left + peak_x,
                peak_y=top + peak_y,
                contour=_outline(labels[y : y + height, x : x + width] == number, left + x, top + y, area),
            )
        )
    return tuple(regions)


def _outline(inside: NDArray[np.bool_], x: int, y: int, area: int) -> tuple[tuple[int, int], ...]:
    """Return the outline of a region that is `inside` its box, whose top left corner is at (x, y)."""
    height, width = inside.shape
    if area == height * width:
        return (x, y), (x, y + height), (x + width, y + height), (x + width, y)
    # OpenCV's outlines go through the centres of pixels. On a grid twice as fine, in which a pixel is the nine points
    # of its corners, its edges and its centre, they go along its edges.
    fine = np.zeros((2 * height + 1, 2 * width + 1), dtype=np.uint8)
    fine[1::2, 1::2] = inside
    fine = cv2.dilate(fine, np.ones((3, 3), np.uint8))
    outlines, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = outlines[0][:, 0]
    following = np.roll(points, -1, axis=0)
    # Inner corners are cut: of the two other points of a diagonal step, the corner is the one with even coordinates.
    corners = np.where(points % 2 == 0, points, following)
    cut = (points != following).all(axis=1)
    both = np.stack([points, corners], axis=1).reshape(-1, 2)
    points = both[np.stack([np.full(len(cut), True), cut], axis=1).ravel()]
    steps = points - np.roll(points, 1, axis=0)
    turns = (steps != np.roll(steps, -1, axis=0)).any(axis=1)
    return tuple(map(tuple, (points[turns] // 2 + (x, y)).tolist()))
