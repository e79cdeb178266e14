"""Another calibration of a fitted model, by images that it does not know; nothing is fitted again."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from patchcore_plugin.data.types import ImageLike, OnError, Progress
from patchcore_plugin.errors import CalibrationError, ImageError

from .calibration import Calibration, GoodImage, require_defective, require_rate
from .loading import Model
from .prediction import Prediction


def recalibrated(
    model: Model,
    good: Sequence[ImageLike] = (),
    defective: Sequence[ImageLike] = (),
    *,
    criterion: Literal["false-alarms", "f1", "cost"] = "false-alarms",
    false_alarm_rate: float | None = None,
    cost: float = 1.0,
    on_error: OnError = "stop",
    progress: Progress | None = None,
) -> tuple[Calibration, list[ImageError]]:
    """Return another calibration of a model, which stays as it is, and the errors of images that were left out.

    Parameters
    ----------
    model
        A fitted detector or ensemble.
    good
        Images of good parts that it was not fitted on; their scores take the place of those that it has. Without any,
        these stay.
    defective
        Images of defective parts, likewise. The scores of those that it has hold as long as it is not fitted again.
    criterion
        "false-alarms" for a rate of them, "f1" for the best F1 score, "cost" for the least cost; the last two need
        defective images.
    false_alarm_rate
        As in `Calibration.at_rate`.
    cost
        As in `Calibration.at_least_cost`.
    on_error
        Whether an unreadable image stops it, or is left out.
    progress
        Called with "judging images", and how many of how many are done.

    Raises
    ------
    CalibrationError
        If the images cannot give such a threshold, the model was fitted on some of them, or one is given as both.
    ImageError
        For an unreadable image, if `on_error` is "stop".
    """
    calibration = model.calibration
    if not (good or calibration.scores):
        raise CalibrationError(
            "the model does not know how good images score; give images of good parts that it was not fitted on"
        )
    if criterion != "false-alarms":
        if false_alarm_rate is not None:
            raise CalibrationError(
                f"a false-alarm rate cannot be chosen along with criterion {criterion}; leave one out"
            )
        require_defective(criterion, defective or calibration.defective)
    elif false_alarm_rate is not None:
        require_rate(false_alarm_rate, len(good or calibration.scores))
    _refuse_known(model, good, defective)
    skipped: list[ImageError] = []
    total = len(good) + len(defective)
    done = 0

    def judged(images: Sequence[ImageLike]) -> Iterator[Prediction]:
        nonlocal done
        for found in model.predict_each(images, on_error=on_error):
            done += 1
            if progress is not None:
                progress("judging images", done, total)
            if isinstance(found, ImageError):
                skipped.append(found)
            else:
                yield found

    if good:
        found = [GoodImage.of(each.score, each.anomaly_map) for each in judged(good)]
        if not found:
            raise CalibrationError("none of the good images can be read; nothing has changed")
        source = f"scores of {len(found)} good images that the model was not fitted on"
        calibration = Calibration.of_good(found, source).with_defective(calibration.defective)
    if defective:
        calibration = calibration.with_defective([each.score for each in judged(defective)])
    if criterion == "f1":
        return calibration.at_best_f1(), skipped
    if criterion == "cost":
        return calibration.at_least_cost(cost), skipped
    return calibration.at_rate(false_alarm_rate), skipped


def _refuse_known(model: Model, good: Sequence[ImageLike], defective: Sequence[ImageLike]) -> None:
    """Refuse images that were fitted on, copies of such, as long as these are still there, and those given twice."""
    known: dict[int, list[Path]] = {}
    for path in map(Path, model.training_images):
        if path.is_file():
            known.setdefault(path.stat().st_size, []).append(path)
    trained = {Path(path).resolve() for path in model.training_images}
    both = {Path(image).resolve() for image in good if isinstance(image, str | Path)}
    for image in (*good, *defective):
        if not isinstance(image, str | Path):
            continue
        path = Path(image)
        same = path if path.resolve() in trained else None
        if same is None and path.is_file():
            same = next((each for each in known.get(path.stat().st_size, ()) if _equal(each, path)), None)
        if same is not None:
            copy = "" if same == path else f" (as {same})"
            raise CalibrationError(
                f"{image}: the model was fitted on this image{copy} and finds it too normal; calibrate with others, or "
                "without images, by those that were judged in the fit"
            )
    for image in defective:
        if isinstance(image, str | Path) and Path(image).resolve() in both:
            raise CalibrationError(f"{image}: is given as good and as defective; leave one out")


def _equal(one: Path, other: Path) -> bool:
    return filecmp.cmp(one, other, shallow=False)
