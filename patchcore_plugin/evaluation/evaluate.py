"""Runs one detector per category of a dataset and measures it."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from patchcore_plugin.data import images as image_files
from patchcore_plugin.errors import ImageError
from patchcore_plugin.inference.explain import ExplanationPictures
from patchcore_plugin.inference.writer import ResultsWriter

from .metrics import PixelScores, image_metrics
from .results import CategoryResult, Evaluation, Failure, ImageResult, Verdicts, finite, write_json

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category, TestImage
    from patchcore_plugin.models.calibration import Calibration
    from patchcore_plugin.models.prediction import Prediction

from patchcore_plugin.data.types import OnError, Progress


class DetectorLike(Protocol):
    """The part of `Detector` that an evaluation uses."""

    @property
    def covering_radius(self) -> float | None: ...  # noqa: D102
    @property
    def bank_rows(self) -> int: ...  # noqa: D102
    @property
    def skipped(self) -> Sequence[ImageError]: ...  # noqa: D102
    @property
    def threshold(self) -> float | None: ...  # noqa: D102
    @property
    def map_scale(self) -> tuple[float, float]: ...  # noqa: D102
    @property
    def calibration(self) -> Calibration: ...  # noqa: D102
    @property
    def thumbnails(self) -> Mapping[int, bytes]: ...  # noqa: D102

    def describe(self) -> Mapping[str, Any]:
        """Return, as JSON-like data, what it was made of and with."""
        ...

    def fit(self, paths: Sequence[Path], /, *, on_error: OnError, progress: Progress | None) -> object:
        """Learn what is normal from images."""
        ...

    def predict_each(
        self, paths: Sequence[Path], /, *, on_error: OnError, keep_pixels: bool
    ) -> Iterator[Prediction | ImageError]:
        """Yield what is found in each image, in order; the error of one that cannot be read, if skipping."""
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
    """Fit, predict and measure category after category.

    Writes ``out/<category>/results.jsonl`` with heat maps and overlays as the images are done, and
    ``out/metrics.json`` anew after each category, so that a run that breaks off leaves all that it had done.

    Parameters
    ----------
    categories
        What to evaluate on; each is fitted with its own detector.
    make_detector
        Returns a detector that was not fitted yet.
    out
        Folder of the results; made if it is missing.
    on_error
        Whether an unreadable image or mask stops the run or is listed as failed.
    progress
        Called with a stage, and how many of how many images (or other units of the stage) are done.
    recipe
        What is evaluated, for the record; must fit into JSON.

    Returns
    -------
    Evaluation
        Figures, curves and images of each category.

    Raises
    ------
    ImageError
        If an image or mask is unreadable, or a mask has another size than its image, and `on_error` is "stop".
    PatchcoreError
        If a detector cannot be fitted.
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
    """Fit a detector on one category, and measure what it finds in the test images.

    Parameters
    ----------
    category
        What to evaluate on.
    detector
        One that was not fitted yet.
    folder
        Where ``results.jsonl`` and the pictures go; made if it is missing.
    on_error, progress
        As of `evaluate`.
    probe
        Called once, when the last image is judged and no figure is computed yet; returns further figures, such as
        the memory that was in use.

    Raises
    ------
    ImageError, PatchcoreError
        As of `evaluate`.
    """

    def report(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{category.name}: {stage}", done, total)

    start = time.perf_counter()
    detector.fit(category.train, on_error=on_error, progress=report)
    fit_seconds = time.perf_counter() - start

    images: list[ImageResult] = []
    failed = [Failure(error.path or "an array", str(error)) for error in detector.skipped]
    fitted = len(category.train) - len(failed)
    has_maps = False
    timed = _Timed(detector.predict_each([image.path for image in category.test], on_error=on_error, keep_pixels=True))
    explain = ExplanationPictures(detector.thumbnails)
    with ResultsWriter(folder, detector.map_scale, explain=explain) as writer, _Spool(folder) as spool:
        report("predict", 0, len(category.test))
        for done, (image, prediction) in enumerate(zip(category.test, timed, strict=True), start=1):
            try:
                if isinstance(prediction, ImageError):
                    raise prediction
                images.append(_record(image, prediction, writer, detector.calibration.map_threshold))
                if prediction.anomaly_map is not None:
                    has_maps = True
                    mask = _truth(image, prediction.anomaly_map)
                    if mask is not None:
                        spool.add(mask, prediction.anomaly_map)
            except ImageError as error:
                if on_error == "stop":
                    raise
                failed.append(Failure(str(image.path), str(error)))
            report("predict", done, len(category.test))
        probed = probe()
        pixel = spool.scores().metrics()

    threshold = detector.threshold
    verdicts = None if threshold is None else Verdicts.of(images, threshold)
    by_image = image_metrics([image.is_anomalous for image in images], [image.score for image in images])
    return CategoryResult(
        name=category.name,
        metrics={
            "image_auroc": by_image.auroc,
            "image_ap": by_image.ap,
            "image_f1_max": by_image.f1_max,
            "pixel_auroc": pixel.auroc,
            "aupro": pixel.aupro,
            "false_alarm_rate": verdicts.false_alarm_rate if verdicts else None,
            "detection_rate": verdicts.detection_rate if verdicts else None,
            "fit_seconds": fit_seconds,
            "fit_seconds_per_image": fit_seconds / fitted if fitted else None,
            "predict_seconds_per_image": timed.seconds / len(images) if images else None,
            "bank_rows": detector.bank_rows,
            "covering_radius": finite(detector.covering_radius),
            **probed,
        },
        image=by_image.thinned(),
        pixel=pixel.thinned(),
        images=tuple(images),
        failed=tuple(failed),
        threshold=threshold,
        scale=detector.map_scale if has_maps else None,
        calibration=detector.calibration,
        model={"images": fitted, "folders": _folders(category.train), **detector.describe()},
    )


def _record(
    image: TestImage, prediction: Prediction, writer: ResultsWriter, map_threshold: float | None
) -> ImageResult:
    record = writer.write(prediction, kind=image.kind, label=image.is_anomalous)
    overlay, why = (writer.folder / record[picture] if record[picture] else None for picture in ("overlay", "why"))
    judged = prediction.anomaly_map is not None and map_threshold is not None
    return ImageResult(
        path=image.path,
        kind=image.kind,
        is_anomalous=image.is_anomalous,
        score=record["score"],
        p_value=record["p_value"],
        overlay=overlay,
        why=why,
        nearest=prediction.nearest.image if prediction.nearest else None,
        regions=len(prediction.regions) if judged else None,
        area=sum(region.area for region in prediction.regions) / math.prod(prediction.size) if judged else None,
    )


def _folders(images: Sequence[Path]) -> list[str]:
    """Return the folders of images, by the last names of their paths, which say enough."""
    return list(dict.fromkeys("/".join(image.parent.parts[-3:]) for image in images))


def _truth(image: TestImage, anomaly_map: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Return where an image is defective; None for a defective one without a mask, which says nothing about pixels."""
    if image.mask is None:
        return None if image.is_anomalous else np.zeros(anomaly_map.shape, dtype=np.bool_)
    mask = image_files.read_mask(image.mask)
    if mask.shape != anomaly_map.shape:
        (height, width), (rows, columns) = mask.shape, anomaly_map.shape
        raise ImageError(
            f"{image.mask}: the mask has {width} x {height} pixels, but its image {image.path} "
            f"has {columns} x {rows}; draw the mask on the image as it is"
        )
    return mask


class _Spool:
    """Keeps masks and maps in a file until all images are judged: in memory they would look like the method's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def __enter__(self) -> _Spool:
        self._file = tempfile.TemporaryFile(dir=self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, mask: npt.NDArray[np.bool_], anomaly_map: npt.NDArray[Any]) -> None:
        np.save(self._file, mask, allow_pickle=False)
        np.save(self._file, anomaly_map, allow_pickle=False)
        self._count += 1

    def scores(self) -> PixelScores:
        pixels = PixelScores()
        self._file.seek(0)
        for _ in range(self._count):
            mask = np.load(self._file, allow_pickle=False)
            pixels.add(mask, np.load(self._file, allow_pickle=False))
        return pixels


@dataclass
class _Timed:
    """An iterator that adds up the seconds spent in it, and not in what is done between its items."""

    items: Iterator[Prediction | ImageError]
    seconds: float = 0.0

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> Prediction | ImageError:
        start = time.perf_counter()
        try:
            return next(self.items)
        finally:
            self.seconds += time.perf_counter() - start
