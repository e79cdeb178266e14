"""What an evaluation found, and how its figures are written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
