"""The threshold and the colour scale."""

from __future__ import annotations

import numpy as np
import pytest

from patchcore_plugin.calibration import Calibration, held_out


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 0), (2, 1), (10, 1), (11, 2), (50, 5)])
def test_a_tenth_is_held_out(count: int, expected: int) -> None:
    numbers = held_out(count, seed=3)
    assert len(numbers) == len(set(numbers.tolist())) == expected
    assert numbers.tolist() == sorted(held_out(count, seed=3).tolist())
    assert all(0 <= number < count for number in numbers)


def test_another_seed_holds_out_others() -> None:
    assert held_out(100, 0).tolist() != held_out(100, 1).tolist()


@pytest.mark.parametrize("offset", [0.0, -100.0, 1000.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_the_scale_rises_and_leaves_room_above_good_parts(offset: float, spread: float) -> None:
    maps = [np.linspace(offset, offset + spread, 64, dtype=np.float32).reshape(8, 8)]
    low, high = Calibration.of_good([1.0, 3.0], maps, 20).map_scale
    assert offset <= low <= offset + spread
    assert high > low
    assert high >= offset + spread


def test_round_trip() -> None:
    calibration = Calibration.of_good([1.0, 3.0], [np.ones((2, 2), dtype=np.float32)], 20)
    assert calibration.threshold == 3.0
    assert Calibration.from_dict(calibration.to_dict()) == calibration
