"""What `predict` and `evaluate` leave on disk, and what an evaluation found."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy.typing as npt

    from .metrics import ImageMetrics, PixelMetrics

METRICS = (
    "image_auroc",
    "image_ap",
    "image_f1_max",
    "pixel_auroc",
    "aupro",
    "fit_seconds",
    "predict_seconds_per_image",
    "bank_rows",
    "covering_radius",
)
"""The figures of a category, in the order in which they are shown."""

COMPARED = (
    *("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "aupro"),
    *("fit_seconds_per_image", "predict_seconds_per_image", "peak_memory_bytes", "peak_gpu_memory_bytes", "bank_rows"),
)
"""The figures by which recipes are compared, likewise."""


class NearestLike(Protocol):
    """The normal patch nearest to the most suspicious patch of a photo."""

    @property
    def photo(self) -> str | None: ...  # noqa: D102
    @property
    def x(self) -> int: ...  # noqa: D102
    @property
    def y(self) -> int: ...  # noqa: D102
    @property
    def peak_x(self) -> int: ...  # noqa: D102
    @property
    def peak_y(self) -> int: ...  # noqa: D102
    @property
    def distance(self) -> float: ...  # noqa: D102


class PredictionLike(Protocol):
    """What is written of a prediction: `Prediction` without the detector and its libraries."""

    @property
    def path(self) -> str | None: ...  # noqa: D102
    @property
    def score(self) -> float: ...  # noqa: D102
    @property
    def anomaly_map(self) -> npt.NDArray[Any] | None: ...  # noqa: D102
    @property
    def threshold(self) -> float | None: ...  # noqa: D102
    @property
    def is_anomalous(self) -> bool | None: ...  # noqa: D102
    @property
    def nearest(self) -> NearestLike | None: ...  # noqa: D102


class ResultsWriter:
    """Writes ``results.jsonl`` and the pictures of one run into a folder, photo after photo.

    A context manager. Every line is on disk before the next photo starts, so that a run that breaks off
    leaves all that it had done; a line's pictures are written before the line. An earlier run's
    ``results.jsonl`` in the folder is replaced.

    Parameters
    ----------
    folder
        Where to write; made if it is missing.
    scale
        Values of the anomaly maps drawn as the first and last colour, for the whole run.
    """

    def __init__(self, folder: Path, scale: tuple[float, float]) -> None:
        self.folder = folder
        self.scale = (float(scale[0]), float(scale[1]))
        self._taken: set[str] = set()
        self._lines: IO[str] | None = None

    def __enter__(self) -> ResultsWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lines = (self.folder / "results.jsonl").open("w", encoding="utf-8", newline="\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def write(
        self, prediction: PredictionLike, photo_pixels: npt.NDArray[Any] | None, **extra: object
    ) -> dict[str, Any]:
        """Write one photo's pictures and line, and return the line's record.

        Parameters
        ----------
        prediction
            What was found. Without an anomaly map there are no pictures.
        photo_pixels
            The photo, RGB [H, W, 3] of uint8, uint16 or floating point; without it there is no overlay.
        **extra
            Further entries of the record; they must fit into JSON.

        Returns
        -------
        dict
            ``path, score, threshold, is_anomalous, map, nearest, overlay, scale`` and `extra`. ``map`` and
            ``overlay`` are paths relative to the folder; ``scale`` is [low, high]; all three may be None.

        Raises
        ------
        ImageError
            If a picture cannot be written.
        TensorError
            If photo and map differ in size.
        ValueError
            If the score is not finite, or the writer is not open.
        """
        if self._lines is None:
            raise ValueError("ResultsWriter: use it in a `with` statement")
        nearest = prediction.nearest
        heat, overlay = self._draw(prediction, photo_pixels)
        record: dict[str, Any] = {
            "path": prediction.path,
            "score": float(prediction.score),
            "threshold": None if prediction.threshold is None else float(prediction.threshold),
            "is_anomalous": None if prediction.is_anomalous is None else bool(prediction.is_anomalous),
            "map": heat,
            "nearest": None
            if nearest is None
            else {
                "photo": nearest.photo,
                "x": int(nearest.x),
                "y": int(nearest.y),
                "peak_x": int(nearest.peak_x),
                "peak_y": int(nearest.peak_y),
                "distance": float(nearest.distance),
            },
            "overlay": overlay,
            "scale": None if heat is None else list(self.scale),
            **extra,
        }
        self._lines.write(json.dumps(record, allow_nan=False) + "\n")
        self._lines.flush()
        return record

    def _draw(self, prediction: PredictionLike, photo: npt.NDArray[Any] | None) -> tuple[str | None, str | None]:
        if prediction.anomaly_map is None:
            return None, None
        # OpenCV is loaded only where something is drawn.
        from . import images, rendering

        name = self._unique_name(prediction.path)
        heat, overlay = f"heat_maps/{name}.png", f"overlays/{name}.png"
        (self.folder / heat).parent.mkdir(exist_ok=True)
        images.write_png(self.folder / heat, rendering.heat_map(prediction.anomaly_map, self.scale))
        if photo is None:
            return heat, None
        (self.folder / overlay).parent.mkdir(exist_ok=True)
        drawn = rendering.overlay(photo, prediction.anomaly_map, self.scale)
        images.write_png(self.folder / overlay, drawn)
        return heat, overlay

    def _unique_name(self, path: str | None) -> str:
        """Return ``folder_stem`` of a photo, counted up when another photo has it already."""
        parts = [] if path is None else [Path(path).parent.name, Path(path).stem]
        base = re.sub(r"[^\w.-]+", "_", "_".join(part for part in parts if part))[-100:] or "photo"
        name, count = base, 1
        # Some file systems take A and a for the same name.
        while name.casefold() in self._taken:
            count += 1
            name = f"{base}-{count}"
        self._taken.add(name.casefold())
        return name


@dataclass(frozen=True)
class Failure:
    """A photo or mask that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class PhotoResult:
    """One test photo: what it is, what was found, and where the overlay lies."""

    path: Path
    kind: str
    is_anomalous: bool
    score: float
    overlay: Path | None = None
    nearest: str | None = None


@dataclass(frozen=True)
class CategoryResult:
    """What was found in one category.

    Parameters
    ----------
    name
        The category.
    metrics
        A figure, or None, for each of `METRICS`; where recipes are compared, of `COMPARED` too.
    image, pixel
        The same figures with their curves, thinned for drawing.
    photos
        The test photos that could be read, in order.
    failed
        Those that could not, and unusable masks.
    threshold
        The detector's own threshold, from good photos alone.
    scale
        Values of the anomaly maps drawn as the first and last colour; None without maps.
    """

    name: str
    metrics: Mapping[str, float | None]
    image: ImageMetrics
    pixel: PixelMetrics
    photos: Sequence[PhotoResult] = ()
    failed: Sequence[Failure] = ()
    threshold: float | None = None
    scale: tuple[float, float] | None = None

    @property
    def has_no_maps(self) -> bool:
        """Whether the method judges whole photos only, so that figures by pixel cannot exist."""
        return bool(self.photos) and self.scale is None


@dataclass(frozen=True)
class Evaluation:
    """What was found in all categories; `recipe` says what was evaluated."""

    categories: Sequence[CategoryResult]
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> dict[str, float | None]:
        """The mean of each figure over the categories that have it."""
        return {key: mean_of([category.metrics[key] for category in self.categories]) for key in METRICS}

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return {
            "categories": {
                category.name: {key: category.metrics[key] for key in METRICS} for category in self.categories
            },
            "mean": self.mean,
            "f1_max_threshold": {category.name: category.image.threshold for category in self.categories},
            "failed": [
                {"category": category.name, "path": failure.path, "reason": failure.reason}
                for category in self.categories
                for failure in category.failed
            ],
            "recipe": dict(self.recipe),
        }


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is not None; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def finite(value: float | None) -> float | None:
    """Return `value`, or None if it is NaN or infinite, which JSON cannot say."""
    return None if value is None or not math.isfinite(value) else float(value)


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON; see `write_text`."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 so that a reader sees the old file or the new one, and never half of either."""
    temporary = path.with_name(f".{path.name}.tmp")
    # A file name that is no valid Unicode must not cost the whole report.
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    temporary.replace(path)
