"""Requirements of a calibration: enough held-out scores for a false-alarm rate, or scores of defective images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from patchcore_plugin.errors import CalibrationError


def require_rate(rate: float, images: int) -> None:
    """Refuse a false-alarm rate that a number of held-out scores cannot guarantee.

    Parameters
    ----------
    rate
        False-alarm rate.
    images
        Number of held-out good images.

    Raises
    ------
    CalibrationError
        If it is below 1 / (images + 1), or not below 1.
    """
    if not 0 < rate < 1:
        raise CalibrationError(f"the false-alarm rate must be between 0 and 1, such as 0.01 for 1 %; got {rate:g}")
    if rate * (images + 1) * (1 + 1e-12) < 1:
        needed = math.ceil(1 / rate * (1 - 1e-12)) - 1
        # Rounded up, so that the rate named is possible.
        best = (
            f"which guarantee {math.ceil(1e4 / (images + 1)) / 1e4:g} at best" if images else "which guarantee nothing"
        )
        raise CalibrationError(
            f"a false-alarm rate of {rate:g} needs at least {needed:,} held-out good images, and "
            f"there are {images:,}, {best}; pass more good images, or choose a higher rate"
        )


def require_defective(criterion: str, defective: Sequence[object]) -> None:
    """Check that there are defective images for a criterion.

    Parameters
    ----------
    criterion
        Name of the criterion.
    defective
        Defective images, or their scores.

    Raises
    ------
    CalibrationError
        If there are none.
    """
    if not defective:
        raise CalibrationError(f"a threshold by {criterion} needs images of defective parts; add --defective FOLDER")
