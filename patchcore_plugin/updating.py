"""More photos for a fitted model: which of them are new, and a calibration that knows their scores too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from .calibration import Calibration, GoodPhoto
from .errors import DatasetError
from .features import Photo


def new_photos(photos: Sequence[Photo], known: Sequence[str]) -> list[Photo]:
    """Return the photos that are none of those that a model was fitted on; arrays are new in any case.

    Parameters
    ----------
    photos
        Paths or arrays.
    known
        Paths.

    Raises
    ------
    DatasetError
        If none is new.
    """
    there = {Path(path).resolve() for path in known}
    new = [photo for photo in photos if not (isinstance(photo, str | Path) and Path(photo).resolve() in there)]
    if not new:
        raise DatasetError(
            f"all {len(photos)} photos are in the model already; give photos that it was not fitted on"
            if len(photos)
            else "no photos to update the model with; give at least one"
        )
    return new


def extended(calibration: Calibration, good: Sequence[GoodPhoto]) -> Calibration:
    """Return a calibration by its own scores and those of more good photos, with a threshold chosen as before.

    Colours stay what they are, so that maps from before and after can be compared; scores of defective photos stay too.

    Parameters
    ----------
    calibration
        That of the model that judged the photos.
    good
        What they got before the model learned from them.
    """
    if not good:
        return calibration
    count = len(calibration.scores) + len(good)
    source = f"scores of {count} good photos, each judged by a bank that did not know it"
    new = Calibration.of_good(good, source)
    if not calibration.scores:
        return new.with_defective(calibration.defective)
    both = dataclasses.replace(
        calibration,
        source=source,
        scores=tuple(sorted(calibration.scores + new.scores)),
        peaks=tuple(sorted(calibration.peaks + new.peaks)),
    )
    if calibration.criterion == "f1":
        return both.at_best_f1()
    if calibration.criterion == "cost":
        return both.at_least_cost(calibration.cost or 1.0)
    if calibration.criterion == "given" and calibration.threshold is not None:
        return both.at_threshold(calibration.threshold)
    return both.at_rate(calibration.rate)
