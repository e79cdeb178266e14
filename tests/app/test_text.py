"""What the page says about the false-alarm rate."""

from __future__ import annotations

import pytest

from patchcore_plugin.app.text import describe_false_alarms
from patchcore_plugin.models.calibration import Calibration
from tests.app.fakes import CALIBRATION


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (CALIBRATION, ("Guaranteed", "5.00%")),
        (CALIBRATION.at_threshold(17.5), ("Estimated", "15.00%", "2 of 19")),
        (CALIBRATION.at_threshold(0), ("unknown",)),
        (Calibration.without_threshold("one image"), ("No threshold",)),
    ],
    ids=["guarantee", "estimate", "unknown", "no threshold"],
)
def test_guarantee_estimate_and_unknown_rate_are_distinguished(
    calibration: Calibration, words: tuple[str, ...]
) -> None:
    text = describe_false_alarms(calibration)
    assert all(word in text for word in words), text
