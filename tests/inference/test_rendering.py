"""Heat maps and overlays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from patchcore_plugin.data.images import to_8_bit
from patchcore_plugin.errors import TensorError
from patchcore_plugin.inference.rendering import MAX_OPACITY, colour_bar, draw_regions, heat_map, overlay
from patchcore_plugin.models.regions import find_regions


def ramp(low: float, high: float, size: int = 256) -> npt.NDArray[np.float32]:
    return np.linspace(low, high, size, dtype=np.float32)[None]


def luminance(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    linear = (rgb / 255.0) ** 2.2
    return np.asarray(linear @ np.array([0.2126, 0.7152, 0.0722]))


def test_lightness_rises_with_the_value() -> None:
    colours = heat_map(ramp(0, 1), (0.0, 1.0))
    assert colours.shape == (1, 256, 3)
    assert colours.dtype == np.uint8
    assert np.all(np.diff(luminance(colours)[0, ::16]) > 0)
    middle = colours[0, 160]
    # Orange, not blue: the channels are in RGB order.
    assert middle[0] > middle[1] > middle[2]


def test_values_outside_the_scale_take_the_end_colours() -> None:
    values = np.array([[-np.inf, -1e30, 2.0, 3.0, 1e30, np.inf, np.nan]], dtype=np.float32)
    colours = heat_map(values, (2.0, 3.0))[0]
    bottom, top = colours[2], colours[3]
    assert (colours[:2] == bottom).all()
    assert (colours[4:] == top).all()
    assert luminance(bottom) < 0.01 < 0.5 < luminance(top)


def test_colour_depends_on_the_value_alone() -> None:
    first = heat_map(np.array([[1.0, 2.0]], dtype=np.float32), (0.0, 4.0))
    second = heat_map(np.array([[1.0, 4.0]], dtype=np.float32), (0.0, 4.0))
    assert (first[0, 0] == second[0, 0]).all()
    assert (first[0, 1] != second[0, 1]).any()


def test_scale_without_width_is_a_step() -> None:
    values = np.array([[0.5, 1.0, 1.5]], dtype=np.float32)
    colours = heat_map(values, (1.0, 1.0))[0]
    assert (colours[0] == colours[1]).all()
    assert (colours[1] != colours[2]).any()


@pytest.mark.parametrize(
    ("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1.0), (np.float64, 1.0)]
)
def test_image_is_unchanged_below_the_scale(dtype: Any, white: float) -> None:
    grey = np.linspace(0, 255, 64).round().astype(np.uint8)
    expected = np.stack([grey, grey[::-1], grey], axis=-1)[None]
    image = (expected / 255 * white).round(9 if white == 1.0 else 0).astype(dtype)
    original = image.copy()
    cold = np.full((1, 64), 0.9, dtype=np.float32)
    assert (overlay(image, cold, (1.0, 2.0)) == expected).all()
    assert (image == original).all()


def test_heat_grows_more_opaque_with_the_value() -> None:
    image = np.full((1, 256, 3), 128, dtype=np.uint8)
    values = ramp(0, 1)
    mixed = overlay(image, values, (0.0, 1.0)).astype(int)
    heat = heat_map(values, (0.0, 1.0)).astype(int)
    share = (mixed - 128) / np.where(heat == 128, 1, heat - 128)
    for position, opacity in [(64, 0.25 * MAX_OPACITY), (128, 0.5 * MAX_OPACITY), (255, MAX_OPACITY)]:
        strongest_channel = int(np.argmax(np.abs(heat[0, position] - 128)))
        assert share[0, position, strongest_channel] == pytest.approx(opacity, abs=0.01)


def test_sixteen_bits_are_scaled_to_eight() -> None:
    image = np.repeat(np.array([[0, 257, 32896, 65535]], dtype=np.uint16)[..., None], 3, axis=2)
    assert to_8_bit(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floats_are_clipped() -> None:
    image = np.repeat(np.array([[-1.0, 0.5, 2.0, np.nan]], dtype=np.float32)[..., None], 3, axis=2)
    assert to_8_bit(image)[0, :, 0].tolist() == [0, 128, 255, 0]


def test_colour_bar_spans_the_scale() -> None:
    bar = colour_bar(width=100, height=5)
    assert bar.shape == (5, 100, 3)
    assert (bar == bar[:1]).all()
    ends = heat_map(np.array([[0.0, 1.0]], dtype=np.float32), (0.0, 1.0))[0]
    assert (bar[0, 0] == ends[0]).all()
    assert (bar[0, -1] == ends[1]).all()


def test_invalid_input_is_refused() -> None:
    values = np.zeros((4, 6), dtype=np.float32)
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    for scale in [(2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))]:
        with pytest.raises(TensorError, match="scale"):
            heat_map(values, scale)
    with pytest.raises(TensorError, match=r"got \[6, 4\]"):
        overlay(image, values.T, (0.0, 1.0))
    with pytest.raises(TensorError, match=r"got \[4, 6\]"):
        overlay(image[..., 0], values, (0.0, 1.0))
    with pytest.raises(TensorError, match="got int32"):
        overlay(image.astype(np.int32), values, (0.0, 1.0))
    with pytest.raises(TensorError, match="anomaly map"):
        heat_map(image.astype(np.float32), (0.0, 1.0))


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_regions_are_visible_on_any_background(grey: int) -> None:
    values = np.zeros((80, 100), dtype=np.float32)
    # A triangle: its outline is not its box.
    values[20:60, 30:70] = np.tri(40)
    image = np.full((80, 100, 3), grey, dtype=np.uint8)
    drawn = draw_regions(image, find_regions(values, 0.5))
    assert (image == grey).all()
    light = luminance(drawn)
    for top, left in ((40, 29), (20, 60), (40, 50)):
        around = light[top - 2 : top + 3, left - 2 : left + 3]
        assert around.max() - around.min() > 0.5, (top, left)
    far = np.ones((80, 100), dtype=bool)
    far[17:63, 27:73] = False
    assert (drawn[far] == grey).all()
    assert (drawn[52:56, 34:38] == grey).all()
    assert (draw_regions(image, ()) == image).all()


def test_region_at_the_border_is_outlined_inside_the_image() -> None:
    image = np.full((20, 30, 3), 128, dtype=np.uint8)
    drawn = draw_regions(image, find_regions(np.ones((20, 30), dtype=np.float32), 0.5))
    bright = luminance(drawn) > 0.6
    assert bright[0].all()
    assert bright[-1].all()
    assert bright[:, 0].all()
    assert bright[:, -1].all()


def test_lines_are_thicker_in_large_images() -> None:
    def fraction(side: int) -> float:
        values = np.zeros((side, side), dtype=np.float32)
        values[side // 4 : side // 2, side // 4 : side // 2] = 1
        image = np.full((side, side, 3), 128, dtype=np.uint8)
        return float((draw_regions(image, find_regions(values, 0.5)) != 128).any(axis=2).mean())

    # With lines of constant width the ratio would be 1/8.
    assert 0.3 < fraction(2000) / fraction(250) < 1.5
