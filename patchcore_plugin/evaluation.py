"""Runs one detector per category of a dataset and measures it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from . import images
from .errors import ImageError
from .metrics import PixelScores, image_metrics
from .results import (
    CategoryResult,
    Evaluation,
    Failure,
    PhotoResult,
    PredictionLike,
    ResultsWriter,
    finite,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Sized

    from .datasets import Category, TestPhoto

Progress = Callable[[str, int, int], None]
OnError = Literal["stop", "skip"]


class BankLike(Protocol):
    """The part of a memory bank that is reported."""

    @property
    def vectors(self) -> Sized: ...  # noqa: D102


class DetectorLike(Protocol):
    """The part of `Detector` that an evaluation uses."""

    @property
    def covering_radius(self) -> float | None: ...  # noqa: D102
    @property
    def bank(self) -> BankLike: ...  # noqa: D102
    @property
    def skipped(self) -> Sequence[ImageError]: ...  # noqa: D102
    @property
    def threshold(self) -> float | None: ...  # noqa: D102
    @property
    def map_scale(self) -> tuple[float, float]: ...  # noqa: D102

    def fit(self, paths: Sequence[Path], /, *, on_error: OnError, progress: Progress | None) -> object:
        """Learn what is normal from photos."""
        ...

    def predict_each(self, paths: Sequence[Path], /, *, on_error: OnError) -> Iterator[PredictionLike | ImageError]:
        """Yield what is found in each photo, in order; the error of one that cannot be read, if skipping."""
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

    Writes ``out/<category>/results.jsonl`` with heat maps and overlays as the photos are done, and
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
        Whether an unreadable photo or mask stops the run or is listed as failed.
    progress
        Called with a stage, and how many of how many photos (or other units of the stage) are done.
    recipe
        What is evaluated, for the record; must fit into JSON.

    Returns
    -------
    Evaluation
        Figures, curves and photos of each category.

    Raises
    ------
    ImageError
        If a photo or mask is unreadable, or a mask has another size than its photo, and `on_error` is "stop".
    PatchcoreError
        If a detector cannot be fitted.
    """
    out.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation((), dict(recipe or {}))
    for category in categories:
        result = _evaluate_one(category, make_detector(), out / category.name, on_error, progress)
        evaluation = replace(evaluation, categories=(*evaluation.categories, result))
        write_json(out / "metrics.json", evaluation.to_json())
    return evaluation


def _evaluate_one(
    category: Category, detector: DetectorLike, folder: Path, on_error: OnError, progress: Progress | None
) -> CategoryResult:
    def report(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{category.name}: {stage}", done, total)

    start = time.perf_counter()
    detector.fit(category.train, on_error=on_error, progress=report)
    fit_seconds = time.perf_counter() - start

    pixels = PixelScores()
    photos: list[PhotoResult] = []
    failed = [Failure(error.path or "an array", str(error)) for error in detector.skipped]
    has_maps = False
    timed = _Timed(detector.predict_each([photo.path for photo in category.test], on_error=on_error))
    with ResultsWriter(folder, detector.map_scale) as writer:
        report("predict", 0, len(category.test))
        for done, (photo, prediction) in enumerate(zip(category.test, timed, strict=True), start=1):
            try:
                if isinstance(prediction, ImageError):
                    raise prediction
                photos.append(_record(photo, prediction, writer))
                if prediction.anomaly_map is not None:
                    has_maps = True
                    _gather(pixels, photo, prediction.anomaly_map)
            except ImageError as error:
                if on_error == "stop":
                    raise
                failed.append(Failure(str(photo.path), str(error)))
            report("predict", done, len(category.test))

    image = image_metrics([photo.is_anomalous for photo in photos], [photo.score for photo in photos])
    pixel = pixels.metrics()
    return CategoryResult(
        name=category.name,
        metrics={
            "image_auroc": image.auroc,
            "image_ap": image.ap,
            "image_f1_max": image.f1_max,
            "pixel_auroc": pixel.auroc,
            "aupro": pixel.aupro,
            "fit_seconds": fit_seconds,
            "predict_seconds_per_image": timed.seconds / len(photos) if photos else None,
            "bank_rows": len(detector.bank.vectors),
            "covering_radius": finite(detector.covering_radius),
        },
        image=image.thinned(),
        pixel=pixel.thinned(),
        photos=tuple(photos),
        failed=tuple(failed),
        threshold=detector.threshold,
        scale=detector.map_scale if has_maps else None,
    )


def _record(photo: TestPhoto, prediction: PredictionLike, writer: ResultsWriter) -> PhotoResult:
    pixels = None if prediction.anomaly_map is None else images.read_photo(photo.path)
    record = writer.write(prediction, pixels, kind=photo.kind, label=photo.is_anomalous)
    return PhotoResult(
        path=photo.path,
        kind=photo.kind,
        is_anomalous=photo.is_anomalous,
        score=record["score"],
        overlay=writer.folder / record["overlay"] if record["overlay"] else None,
        nearest=prediction.nearest.photo if prediction.nearest else None,
    )


def _gather(pixels: PixelScores, photo: TestPhoto, anomaly_map: npt.NDArray[Any]) -> None:
    """Add a photo's pixels; a defective one without a mask says nothing about pixels and is left out."""
    if photo.mask is not None:
        mask = images.read_mask(photo.mask)
        if mask.shape != anomaly_map.shape:
            (height, width), (rows, columns) = mask.shape, anomaly_map.shape
            raise ImageError(
                f"{photo.mask}: the mask has {width} x {height} pixels, but its photo {photo.path} "
                f"has {columns} x {rows}; draw the mask on the photo as it is"
            )
        pixels.add(mask, anomaly_map)
    elif not photo.is_anomalous:
        pixels.add(np.zeros(anomaly_map.shape, dtype=np.bool_), anomaly_map)


@dataclass
class _Timed:
    """An iterator that adds up the seconds spent in it, and not in what is done between its items."""

    items: Iterator[PredictionLike | ImageError]
    seconds: float = 0.0

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> PredictionLike | ImageError:
        start = time.perf_counter()
        try:
            return next(self.items)
        finally:
            self.seconds += time.perf_counter() - start
