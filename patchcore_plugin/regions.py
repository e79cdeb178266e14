"""Connected regions of an anomaly map that are above a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Region:
    """A connected part of the map that is above the threshold; all positions in pixels of the photo.

    Parameters
    ----------
    x, y, width, height
        The bounding box, its top left pixel first.
    area
        Number of pixels.
    peak, peak_x, peak_y
        The highest map value and where it is.
    contour
        The outline as a closed polygon of pixel centres (x, y), holes left out.
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
    """Return the 8-connected regions of a map [H, W] whose values are above `threshold`, highest peak first."""
    above = (anomaly_map > threshold).astype(np.uint8)
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    found = []
    for number in range(1, count):
        x, y, width, height, area = (int(value) for value in boxes[number])
        inside = labels[y : y + height, x : x + width] == number
        values = np.where(inside, anomaly_map[y : y + height, x : x + width], -np.inf)
        peak_y, peak_x = np.unravel_index(int(values.argmax()), values.shape)
        outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        contour = tuple((x + int(point[0]), y + int(point[1])) for point in outlines[0][:, 0])
        found.append(
            Region(
                x=x,
                y=y,
                width=width,
                height=height,
                area=area,
                peak=float(values[peak_y, peak_x]),
                peak_x=x + int(peak_x),
                peak_y=y + int(peak_y),
                contour=contour,
            )
        )
    return tuple(sorted(found, key=lambda region: -region.peak))
