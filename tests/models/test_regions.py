"""Connected regions of maps, compared with a search pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from patchcore_plugin.models.regions import Region, find_regions

Map = NDArray[np.float32]
Pixels = set[tuple[int, int]]


def connected_pixels(start: tuple[int, int], allowed: Pixels, *, diagonally: bool) -> Pixels:
    """Return the pixels (y, x) that are connected with one."""
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if diagonally or not (y and x)]
    reached, waiting = {start}, [start]
    while waiting:
        y, x = waiting.pop()
        more = {(y + dy, x + dx) for dy, dx in steps} & allowed - reached
        reached |= more
        waiting += more
    return reached


def pixels_by_region(above: NDArray[np.bool_]) -> list[Pixels]:
    rest = {(int(y), int(x)) for y, x in np.argwhere(above)}
    regions = []
    while rest:
        regions.append(connected_pixels(min(rest), rest, diagonally=True))
        rest -= regions[-1]
    return regions


def fill_holes(region: Pixels, shape: tuple[int, int]) -> Pixels:
    """Return the pixels of a region and of its holes."""
    everywhere = {(y, x) for y in range(-1, shape[0] + 1) for x in range(-1, shape[1] + 1)}
    return everywhere - connected_pixels((-1, -1), everywhere - region, diagonally=False)


def enclosed_pixels(contour: tuple[tuple[int, int], ...], shape: tuple[int, int]) -> Pixels:
    """Return the pixels whose centres have an odd number of the polygon's sides at their left."""
    inside = set()
    sides = list(zip(contour, contour[1:] + contour[:1], strict=True))
    for y in range(shape[0]):
        for x in range(shape[1]):
            left = sum(xa < x + 0.5 and min(ya, yb) < y + 0.5 < max(ya, yb) for (xa, ya), (xb, yb) in sides if xa == xb)
            if left % 2:
                inside.add((y, x))
    return inside


def shoelace(contour: tuple[tuple[int, int], ...]) -> float:
    following = contour[1:] + contour[:1]
    return abs(sum(xa * yb - xb * ya for (xa, ya), (xb, yb) in zip(contour, following, strict=True))) / 2


@pytest.mark.parametrize("share", [0.03, 0.2, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("shape", [(1, 9), (13, 1), (17, 23), (30, 24)])
def test_regions_are_those_of_a_search_pixel_by_pixel(shape: tuple[int, int], share: float) -> None:
    values = np.random.default_rng(int(100 * share)).random(shape).astype(np.float32)
    above = values > 1 - share
    regions = {(region.peak_y, region.peak_x): region for region in find_regions(values, 1 - share)}
    expected = pixels_by_region(above)
    assert len(regions) == len(expected)
    for pixels in expected:
        peak = max(pixels, key=lambda place: values[place])
        region = regions[peak]
        ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
        box = min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1
        assert (region.x, region.y, region.width, region.height) == box
        assert (region.area, region.peak) == (len(pixels), values[peak])
        whole = fill_holes(pixels, shape)
        assert enclosed_pixels(region.contour, shape) == whole
        assert shoelace(region.contour) == len(whole)
    peaks = [region.peak for region in find_regions(values, 1 - share)]
    assert peaks == sorted(peaks, reverse=True)


def test_the_contour_follows_the_edges_of_pixels_without_needless_corners() -> None:
    values = np.zeros((6, 8), dtype=np.float32)
    values[2, 3] = 5
    assert find_regions(values, 1) == (
        Region(
            x=3, y=2, width=1, height=1, area=1, peak=5.0, peak_x=3, peak_y=2, contour=((3, 2), (3, 3), (4, 3), (4, 2))
        ),
    )
    values[3, 3:6] = 4
    (region,) = find_regions(values, 1)
    assert set(region.contour) == {(3, 2), (4, 2), (4, 3), (6, 3), (6, 4), (3, 4)}
    assert len(region.contour) == 6
    assert all(isinstance(value, int) for point in region.contour for value in point)


def test_diagonal_pixels_are_connected_and_holes_have_no_area() -> None:
    values = np.zeros((5, 9), dtype=np.float32)
    values[0, 0] = values[1, 1] = 1
    values[1:4, 5:8] = 2
    values[2, 6] = 0
    ring, pair = find_regions(values, 0.5)
    assert (pair.area, pair.width, pair.height, shoelace(pair.contour)) == (2, 2, 2, 2)
    assert (ring.area, shoelace(ring.contour)) == (8, 9)


def test_pixels_at_the_threshold_are_in_no_region() -> None:
    values = np.full((4, 5), np.nan, dtype=np.float32)
    assert find_regions(values, 0.0) == ()
    values[1, 1:4] = (0.5, np.nan, 0.75)
    regions = find_regions(values, 0.5)
    assert [(region.peak_x, region.area) for region in regions] == [(3, 1)]
    assert find_regions(np.full((4, 5), 0.5, dtype=np.float32), 0.5) == ()
    (everything,) = find_regions(np.full((4, 5), 0.75, dtype=np.float32), 0.5)
    assert (everything.area, everything.contour) == (20, ((0, 0), (0, 4), (5, 4), (5, 0)))


def test_of_equal_peaks_the_first_pixel_comes_first() -> None:
    values = np.zeros((5, 9), dtype=np.float32)
    values[1, 6:8] = values[3, 1:4] = 1
    assert [(region.peak_x, region.peak_y) for region in find_regions(values, 0.5)] == [(6, 1), (1, 3)]


def test_thousands_of_small_regions_are_found() -> None:
    values = np.random.default_rng(0).random((500, 500)).astype(np.float32)
    regions = find_regions(values, 0.97)
    assert len(regions) > 5000
    assert sum(region.area for region in regions) == (values > 0.97).sum()
    assert all(values[region.peak_y, region.peak_x] == np.float32(region.peak) for region in regions)
