"""Evaluation of a detector on labelled categories."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from patchcore_plugin.data import images as image_files
from patchcore_plugin.data.types import OnError, Progress
from patchcore_plugin.errors import ImageError
from patchcore_plugin.inference.explain import ExplanationPictures
from patchcore_plugin.inference.runner import Predictor
from patchcore_plugin.inference.writer import ResultsWriter

from .metrics.image import image_metrics
from .metrics.pixel import PixelSpool
from .results import CategoryResult, Evaluation, Failure, ImageResult, ThresholdCounts, write_json

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category, TestImage
    from patchcore_plugin.models.calibration import Calibration
    from patchcore_plugin.models.prediction import Prediction


class DetectorLike(Predictor, Protocol):
    """The attributes of `Detector` that an evaluation uses."""

    @property
    def covering_radius(self) -> float | None: ...  # noqa: D102
    @property
    def bank_rows(self) -> int: ...  # noqa: D102
    @property
    def skipped(self) -> Sequence[ImageError]: ...  # noqa: D102
    @property
    def threshold(self) -> float | None: ...  # noqa: D102
    @property
    def calibration(self) -> Calibration: ...  # noqa: D102

    def describe(self) -> Mapping[str, Any]:
        """Return the components and settings as JSON-like data."""
        ...

    def fit(self, paths: Sequence[Path], /, *, on_error: OnError, progress: Progress | None) -> object:
        """Fit on good images.

        Parameters
        ----------
        paths
            Images of good parts.
        on_error
            "stop" to raise the error of an unreadable image, "skip" to leave the image out.
        progress
            Called with the stage, the number of images done, and their total.
        """
        ...


def evaluate(
    categories: Sequence[Category],
    make_detector: Callable[[], DetectorLike],
    out: Path,
    *,
    on_error: OnError = "skip",
    progress: Progress | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Fit and evaluate one detector per category.

    ``out/<category>/results.jsonl``, heat maps and overlays are written image by image, and ``out/metrics.json`` is
    updated after each category, so an interrupted run keeps everything up to the interruption.

    Parameters
    ----------
    categories
        The categories of a data set.
    make_detector
        Returns a new, unfitted detector.
    out
        Folder of the results; created if missing.
    on_error
        "stop" raises on an unreadable image or mask; "skip" lists it as failed.
    progress
        Called with a stage, the number of finished units (usually images) and their total.
    recipe
        The evaluated recipe, for the record; JSON-like data.

    Returns
    -------
    Evaluation
        Metrics, curves and images of each category.

    Raises
    ------
    ImageError
        If `on_error` is "stop" and an image or mask is unreadable, or a mask differs in size from its image.
    PatchcoreError
        If a detector cannot be fitted.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> from patchcore_plugin.data.datasets import load_categories
    >>> from patchcore_plugin.data.synthetic import draw_dataset
    >>> def make_detector():
    ...     return pp.Detector.from_recipe("patchcore", backbone="efficientnet-lite0", preprocessing={"size": [64, 64]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = draw_dataset(folder, train=8, good=1, defective=1, size=64)
    ...     evaluation = evaluate(load_categories(root), make_detector, Path(folder))
    >>> [(category.name, len(category.images)) for category in evaluation.categories]
    [('synthetic-parts', 6)]
    """
    out.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation((), dict(recipe or {}))
    for category in categories:
        result = evaluate_category(category, make_detector(), out / category.name, on_error=on_error, progress=progress)
        evaluation = replace(evaluation, categories=(*evaluation.categories, result))
        write_json(out / "metrics.json", evaluation.to_json())
    return evaluation


def evaluate_category(
    category: Category,
    detector: DetectorLike,
    folder: Path,
    *,
    on_error: OnError = "skip",
    progress: Progress | None = None,
    probe: Callable[[], Mapping[str, float | None]] = dict,
) -> CategoryResult:
    """Fit a detector on the training images of a category and evaluate it on the test images.

    Parameters
    ----------
    category
        The category.
    detector
        An unfitted detector.
    folder
        Where ``results.jsonl`` and the pictures go; created if missing.
    on_error
        "stop" raises on an unreadable image or mask; "skip" lists it as failed.
    progress
        Called with a stage, the number of finished units (usually images) and their total.
    probe
        Called once, after the last prediction and before any metric is computed. Returns additional metrics, such as
        the peak memory.

    Returns
    -------
    CategoryResult
        Metrics, curves and images.

    Raises
    ------
    ImageError
        If `on_error` is "stop" and an image or mask is unreadable, or a mask differs in size from its image.
    PatchcoreError
        If the detector cannot be fitted.
    """

    def report(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{category.name}: {stage}", done, total)

    start = time.perf_counter()
    detector.fit(category.train, on_error=on_error, progress=report)
    fit_seconds = time.perf_counter() - start

    images: list[ImageResult] = []
    failures = [Failure(error.path or "an array", str(error)) for error in detector.skipped]
    training_images = len(category.train) - len(failures)
    has_maps = False
    paths = [image.path for image in category.test]
    predictions = _TimedIterator(detector.predict_each(paths, on_error=on_error, keep_pixels=True))
    explain = ExplanationPictures(detector.thumbnails)
    with (
        ResultsWriter(folder, detector.map_scale, explain=explain) as writer,
        tempfile.TemporaryFile(dir=folder) as file,
    ):
        pixels = PixelSpool(file)
        report("predict", 0, len(category.test))
        for done, (image, prediction) in enumerate(zip(category.test, predictions, strict=True), start=1):
            try:
                if isinstance(prediction, ImageError):
                    raise prediction
                images.append(_image_result(image, prediction, writer, detector.calibration.map_threshold))
                if prediction.anomaly_map is not None:
                    has_maps = True
                    mask = _read_mask(image, prediction.anomaly_map)
                    if mask is not None:
                        pixels.add(mask, prediction.anomaly_map)
            except ImageError as error:
                if on_error == "stop":
                    raise
                failures.append(Failure(str(image.path), str(error)))
            report("predict", done, len(category.test))
        additional = probe()
        pixel = pixels.read().metrics()

    threshold = detector.threshold
    counts = None if threshold is None else ThresholdCounts.count(images, threshold)
    by_image = image_metrics([image.is_anomalous for image in images], [image.score for image in images])
    return CategoryResult(
        name=category.name,
        metrics={
            "image_auroc": by_image.auroc,
            "image_ap": by_image.ap,
            "image_f1_max": by_image.f1_max,
            "pixel_auroc": pixel.auroc,
            "aupro": pixel.aupro,
            "false_alarm_rate": counts.false_alarm_rate if counts else None,
            "detection_rate": counts.detection_rate if counts else None,
            "fit_seconds": fit_seconds,
            "fit_seconds_per_image": fit_seconds / training_images if training_images else None,
            "predict_seconds_per_image": predictions.seconds / len(images) if images else None,
            "bank_rows": detector.bank_rows,
            "covering_radius": _finite_or_none(detector.covering_radius),
            **additional,
        },
        image=by_image.thin(),
        pixel=pixel.thin(),
        images=tuple(images),
        failed=tuple(failures),
        threshold=threshold,
        scale=detector.map_scale if has_maps else None,
        calibration=detector.calibration,
        model={"images": training_images, "folders": _folders(category.train), **detector.describe()},
    )


def _image_result(
    image: TestImage, prediction: Prediction, writer: ResultsWriter, map_threshold: float | None
) -> ImageResult:
    record = writer.write(prediction, kind=image.kind, label=image.is_anomalous)
    overlay, why = (writer.folder / record[picture] if record[picture] else None for picture in ("overlay", "why"))
    has_regions = prediction.anomaly_map is not None and map_threshold is not None
    return ImageResult(
        path=image.path,
        kind=image.kind,
        is_anomalous=image.is_anomalous,
        score=record["score"],
        p_value=record["p_value"],
        overlay=overlay,
        why=why,
        nearest=prediction.nearest.image if prediction.nearest else None,
        regions=len(prediction.regions) if has_regions else None,
        area=sum(region.area for region in prediction.regions) / math.prod(prediction.size) if has_regions else None,
    )


def _finite_or_none(value: float | None) -> float | None:
    """Return a value, or None if it is NaN or infinite, which JSON cannot represent."""
    return None if value is None or not math.isfinite(value) else float(value)


def _folders(images: Sequence[Path]) -> list[str]:
    """Return the folders of images, shortened to the last three names."""
    return list(dict.fromkeys("/".join(image.parent.parts[-3:]) for image in images))


def _read_mask(image: TestImage, anomaly_map: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Return a mask of the defective pixels; None for a defective image without a mask file."""
    if image.mask is None:
        return None if image.is_anomalous else np.zeros(anomaly_map.shape, dtype=np.bool_)
    mask = image_files.read_mask(image.mask)
    if mask.shape != anomaly_map.shape:
        (height, width), (rows, columns) = mask.shape, anomaly_map.shape
        raise ImageError(
            f"{image.mask}: the mask has {width} x {height} pixels, but its image {image.path} "
            f"has {columns} x {rows}; draw the mask at the size of the image"
        )
    return mask


@dataclass
class _TimedIterator:
    """Adds up the seconds spent in an iterator, excluding the time between its items."""

    items: Iterator[Prediction | ImageError]
    seconds: float = 0.0

    def __iter__(self) -> _TimedIterator:
        return self

    def __next__(self) -> Prediction | ImageError:
        start = time.perf_counter()
        try:
            return next(self.items)
        finally:
            self.seconds += time.perf_counter() - start
