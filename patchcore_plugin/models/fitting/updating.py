"""More images for a fitted model: which of them are new, and a calibration that knows their scores too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from patchcore_plugin.data.types import ImageLike
from patchcore_plugin.errors import DatasetError
from patchcore_plugin.models.calibration import Calibration, GoodImage


def new_images(images: Sequence[ImageLike], known: Sequence[str]) -> list[ImageLike]:
    """Return the images that are none of those that a model was fitted on; arrays are new in any case.

    Parameters
    ----------
    images
        Paths or arrays.
    known
        Paths.

    Raises
    ------
    DatasetError
        If none is new.
    """
    there = {Path(path).resolve() for path in known}
    new = [image for image in images if not (isinstance(image, str | Path) and Path(image).resolve() in there)]
    if not new:
        raise DatasetError(
            f"all {len(images)} images are in the model already; give images that it was not fitted on"
            if len(images)
            else "no images to update the model with; give at least one"
        )
    return new


def extended(calibration: Calibration, good: Sequence[GoodImage]) -> Calibration:
    """Return a calibration by its own scores and those of more good images, with a threshold chosen as before.

    Colours stay what they are, so that maps from before and after can be compared; scores of defective images stay too.

    Parameters
    ----------
    calibration
        That of the model that judged the images.
    good
        What they got before the model learned from them.
    """
    if not good:
        return calibration
    count = len(calibration.scores) + len(good)
    source = f"scores of {count} good images, each judged by a bank that did not know it"
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
