"""Another calibration of a fitted model, by photos that it does not know; nothing is fitted again."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from .calibration import Calibration, GoodPhoto, require_defective, require_rate
from .errors import CalibrationError, ImageError
from .features import OnError, Photo
from .learning import Progress
from .models import Model
from .prediction import Prediction


def recalibrated(
    model: Model,
    good: Sequence[Photo] = (),
    defective: Sequence[Photo] = (),
    *,
    criterion: Literal["false-alarms", "f1", "cost"] = "false-alarms",
    false_alarm_rate: float | None = None,
    cost: float = 1.0,
    on_error: OnError = "stop",
    progress: Progress | None = None,
) -> tuple[Calibration, list[ImageError]]:
    """Return another calibration of a model, which stays as it is, and the errors of photos that were left out.

    Parameters
    ----------
    model
        A fitted detector or ensemble.
    good
        Photos of good parts that it was not fitted on; their scores take the place of those that it has. Without any,
        these stay.
    defective
        Photos of defective parts, likewise. The scores of those that it has hold as long as it is not fitted again.
    criterion
        "false-alarms" for a rate of them, "f1" for the best F1 score, "cost" for the least cost; the last two need
        defective photos.
    false_alarm_rate
        As in `Calibration.at_rate`.
    cost
        As in `Calibration.at_least_cost`.
    on_error
        Whether an unreadable photo stops it, or is left out.
    progress
        Called with "judging photos", and how many of how many are done.

    Raises
    ------
    CalibrationError
        If the photos cannot give such a threshold, the model was fitted on some of them, or one is given as both.
    ImageError
        For an unreadable photo, if `on_error` is "stop".
    """
    calibration = model.calibration
    if not (good or calibration.scores):
        raise CalibrationError(
            "the model does not know how good photos score; give photos of good parts that it was not fitted on"
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

    def judged(photos: Sequence[Photo]) -> Iterator[Prediction]:
        nonlocal done
        for found in model.predict_each(photos, on_error=on_error):
            done += 1
            if progress is not None:
                progress("judging photos", done, total)
            if isinstance(found, ImageError):
                skipped.append(found)
            else:
                yield found

    if good:
        found = [GoodPhoto.of(each.score, each.anomaly_map) for each in judged(good)]
        if not found:
            raise CalibrationError("none of the good photos can be read; nothing has changed")
        source = f"scores of {len(found)} good photos that the model was not fitted on"
        calibration = Calibration.of_good(found, source).with_defective(calibration.defective)
    if defective:
        calibration = calibration.with_defective([each.score for each in judged(defective)])
    if criterion == "f1":
        return calibration.at_best_f1(), skipped
    if criterion == "cost":
        return calibration.at_least_cost(cost), skipped
    return calibration.at_rate(false_alarm_rate), skipped


def _refuse_known(model: Model, good: Sequence[Photo], defective: Sequence[Photo]) -> None:
    """Refuse photos that were fitted on, copies of such, as long as these are still there, and those given twice."""
    known: dict[int, list[Path]] = {}
    for path in map(Path, model.training_photos):
        if path.is_file():
            known.setdefault(path.stat().st_size, []).append(path)
    trained = {Path(path).resolve() for path in model.training_photos}
    both = {Path(photo).resolve() for photo in good if isinstance(photo, str | Path)}
    for photo in (*good, *defective):
        if not isinstance(photo, str | Path):
            continue
        path = Path(photo)
        same = path if path.resolve() in trained else None
        if same is None and path.is_file():
            same = next((each for each in known.get(path.stat().st_size, ()) if _equal(each, path)), None)
        if same is not None:
            copy = "" if same == path else f" (as {same})"
            raise CalibrationError(
                f"{photo}: the model was fitted on this photo{copy} and finds it too normal; calibrate with others, or "
                "without photos, by those that were judged in the fit"
            )
    for photo in defective:
        if isinstance(photo, str | Path) and Path(photo).resolve() in both:
            raise CalibrationError(f"{photo}: is given as good and as defective; leave one out")


def _equal(one: Path, other: Path) -> bool:
    return filecmp.cmp(one, other, shallow=False)
