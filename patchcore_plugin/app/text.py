"""Phrases that several parts of the page share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patchcore_plugin.models.calibration import Calibration


def describe_false_alarms(calibration: Calibration) -> str:
    """Return one sentence on the false-alarm rate at the threshold: a guarantee, an estimate, or unknown.

    Parameters
    ----------
    calibration
        Calibration of the model, with the threshold in use.

    Returns
    -------
    str
        A guarantee only if the threshold was chosen by a false-alarm rate.
    """
    rate, threshold = calibration.false_alarm_rate, calibration.threshold
    if threshold is None:
        return "No threshold: the model has no held-out scores of good images."
    if rate is None:
        return "The false-alarm rate at this threshold is unknown."
    if calibration.criterion == "false-alarms":
        return f"Guaranteed false-alarm rate: at most {rate:.2%} of good images."
    above = sum(score > threshold for score in calibration.scores)
    return (
        f"Estimated false-alarm rate: at most {rate:.2%} "
        f"({above} of {len(calibration.scores)} good images score above the threshold)."
    )


def count_images(count: int) -> str:
    """Return a number of images in words.

    Examples
    --------
    >>> count_images(1), count_images(1200)
    ('1 image', '1,200 images')
    """
    return f"{count:,} image{'s' * (count != 1)}"
