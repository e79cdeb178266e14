"""What is said in more than one place of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patchcore_plugin.models.calibration import Calibration


def one_line(error: BaseException) -> str:
    """Return an error's text as one line."""
    return " ".join(str(error).split())


def promise(calibration: Calibration) -> str:
    """Say of how many good images the threshold says that they are defective."""
    rate, threshold = calibration.false_alarm_rate, calibration.threshold
    if threshold is None:
        return "The model has no threshold: no good images were judged in its fit."
    if rate is None:
        return "Nothing is known of false alarms at this threshold."
    if calibration.criterion == "false-alarms":
        return f"Promised: at most {rate:.2%} false alarms on good images."
    above = sum(score > threshold for score in calibration.scores)
    return f"Estimated: {above} of {len(calibration.scores)} good images lie above, at most {rate:.2%} false alarms."
