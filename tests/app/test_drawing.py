"""Heat maps, outlines and histograms as files in memory."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from patchcore_plugin.app import drawing
from patchcore_plugin.data.headers import read_header


def test_heat_is_transparent_below_the_scale_and_opaque_above() -> None:
    values = np.array([[0, 1, 2, 3, np.nan]], dtype=np.float32)
    pixels = cv2.imdecode(np.frombuffer(drawing.encode_heat(values, (1.0, 3.0), 100), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels[0, :, 3].tolist() == [0, 0, 128, 255, 255]
    assert read_header(drawing.encode_heat(np.zeros((30, 300), np.float32), (0.0, 1.0), 100)).size == (10, 100)


def test_outlines_follow_the_regions() -> None:
    values = np.zeros((6, 9), np.float32)
    values[1:3, 4:8] = 1
    svg = drawing.draw_outlines(values, 0.5).decode()
    assert 'viewBox="0 0 9 6"' in svg
    assert {"4 1", "8 1", "8 3", "4 3"} <= set(re.split("[MLZ]", svg.split(' d="')[1]))


def test_histogram_shows_scores_threshold_and_images() -> None:
    svg = drawing.draw_histogram([1, 1, 2], [(1.5, False), (9.0, True)], 3.0, (0.0, 10.0))
    assert "3 good images; 1 of 2 images above the threshold" in svg
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"/>', svg)]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)
    positions = dict(re.findall(r'class="(pc-line|pc-good|pc-defect)" d="M([\d.]+)', svg))
    assert float(positions["pc-good"]) < float(positions["pc-line"]) < float(positions["pc-defect"])


def test_axis_range_of_equal_scores_is_not_empty() -> None:
    low, high = drawing.axis_range([5.0, 5.0])
    assert low < 5 < high
