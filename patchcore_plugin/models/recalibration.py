"""Recalibrate a model with images that it was not fitted on, without fitting it again."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from patchcore_plugin.data.types import ImageLike, OnError, Progress
from patchcore_plugin.errors import CalibrationError, ImageError

from .base import BaseModel
from .calibration import Calibration
from .held_out_score import HeldOutScore
from .loading import Model
from .prediction import Prediction
from .rates import require_defective, require_rate


def recalibrate(
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
    """Return a new calibration for a model, which is not changed, and the errors of images that were skipped.

    Parameters
    ----------
    model
        A fitted detector, or an exported model.
    good
        Good images that it was not fitted on; their scores replace those of the present calibration. None to keep
        these.
    defective
        Defective images; their scores replace those of the present calibration. None to keep these.
    criterion
        "false-alarms" for a false-alarm rate, "f1" for the best F1 score, "cost" for the lowest cost; the last two need
        defective images.
    false_alarm_rate
        Target rate; None for 0.01, or the lowest that the number of images supports.
    cost
        Cost of a missed defect, in false alarms, for the criterion "cost".
    on_error
        "stop" to raise the error of an unreadable image, "skip" to leave the image out.
    progress
        Called with "scoring images", the number of images done, and their total.

    Returns
    -------
    calibration
        The new calibration; assign it to ``model.calibration`` to use it.
    errors
        The errors of the images that were skipped.

    Raises
    ------
    CalibrationError
        If there are too few images for the threshold, if the model was fitted on one, or if one is passed both as
        good and as defective.
    ImageError
        For an unreadable image, if errors are not skipped.

    Examples
    --------
    >>> import numpy as np
    >>> import patchcore_plugin as pp
    >>> changes = {"backbone": {"name": "resnet18", "weights": "random"}, "preprocessing": {"size": (32, 32)}}
    >>> images = list(np.random.default_rng(0).integers(0, 256, (13, 32, 32, 3), dtype=np.uint8))
    >>> detector = pp.Detector.from_recipe("patchcore", **changes).fit(images[:4])
    >>> detector.calibration, errors = recalibrate(detector, good=images[4:], false_alarm_rate=0.1)
    >>> detector.calibration.false_alarm_rate, errors
    (0.1, [])
    """
    calibration = model.calibration
    if not (good or calibration.scores):
        raise CalibrationError("the model has no scores of good images; pass good images that it was not fitted on")
    if criterion != "false-alarms":
        if false_alarm_rate is not None:
            raise CalibrationError(f"a false-alarm rate cannot be combined with criterion {criterion}; pass only one")
        require_defective(criterion, defective or calibration.defective)
    elif false_alarm_rate is not None:
        require_rate(false_alarm_rate, len(good or calibration.scores))
    _refuse_known(model, good, defective)
    scorer = _ImageScorer(model, on_error, progress, len(good) + len(defective))
    if good:
        scores = [HeldOutScore.summarise(prediction.score, prediction.anomaly_map) for prediction in scorer(good)]
        if not scores:
            raise CalibrationError("none of the good images can be read; the model is unchanged")
        source = f"scores of {len(scores)} good images that the model was not fitted on"
        calibration = Calibration.from_held_out(scores, source).with_defective(calibration.defective)
    if defective:
        calibration = calibration.with_defective([prediction.score for prediction in scorer(defective)])
    if criterion == "f1":
        return calibration.at_best_f1(), scorer.skipped
    if criterion == "cost":
        return calibration.at_lowest_cost(cost), scorer.skipped
    return calibration.at_rate(false_alarm_rate), scorer.skipped


class _ImageScorer:
    """Predicts several lists of images with one progress, and collects the errors of unreadable images."""

    def __init__(self, model: BaseModel, on_error: OnError, progress: Progress | None, total: int) -> None:
        self._model, self._on_error, self._progress, self._total = model, on_error, progress, total
        self._done = 0
        self.skipped: list[ImageError] = []

    def __call__(self, images: Sequence[ImageLike]) -> Iterator[Prediction]:
        for prediction in self._model.predict_each(images, on_error=self._on_error):
            self._done += 1
            if self._progress is not None:
                self._progress("scoring images", self._done, self._total)
            if isinstance(prediction, ImageError):
                self.skipped.append(prediction)
            else:
                yield prediction


def _refuse_known(model: Model, good: Sequence[ImageLike], defective: Sequence[ImageLike]) -> None:
    """Refuse training images, copies of training images that still exist, and images given twice."""
    training = {Path(path).resolve(): Path(path) for path in model.training_images}
    by_size: dict[int, list[Path]] = {}
    for path in training.values():
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(path)
    paths = [Path(image) for image in (*good, *defective) if isinstance(image, str | Path)]
    for path in paths:
        original = path if path.resolve() in training else None
        if original is None and path.is_file():
            candidates = by_size.get(path.stat().st_size, ())
            original = next(
                (candidate for candidate in candidates if filecmp.cmp(candidate, path, shallow=False)), None
            )
        if original is not None:
            copy = "" if original == path else f" (as {original})"
            raise CalibrationError(
                f"{path}: this image was used to fit the model{copy}, so its score is too low to calibrate with. Pass "
                "other images, or none to reuse the scores from fit."
            )
    both = {Path(image).resolve() for image in good if isinstance(image, str | Path)}
    for image in defective:
        if isinstance(image, str | Path) and Path(image).resolve() in both:
            raise CalibrationError(f"{image}: passed both as good and as defective; remove one")
