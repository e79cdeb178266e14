"""What an evaluation found, and how its figures are written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_plugin.data.atomic import atomic_write

if TYPE_CHECKING:
    from patchcore_plugin.models.calibration import Calibration

    from .metrics import ImageMetrics, PixelMetrics

METRICS = (
    "image_auroc",
    "image_ap",
    "image_f1_max",
    "pixel_auroc",
    "aupro",
    "false_alarm_rate",
    "detection_rate",
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
    """An image or mask that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageResult:
    """One test image: what it is, what was found, and where the pictures lie.

    Parameters
    ----------
    path, kind, is_anomalous
        The image, and the truth about it.
    score, p_value
        What it got; the latter None where it is not known.
    overlay, why
        Pictures, where they were drawn.
    nearest
        Path of the training image with the nearest normal patch.
    regions, area
        How many parts of the map are above its threshold, and the share of the image's pixels that they cover; None
        without such a threshold.
    """

    path: Path
    kind: str
    is_anomalous: bool
    score: float
    overlay: Path | None = None
    nearest: str | None = None
    p_value: float | None = None
    regions: int | None = None
    area: float | None = None
    why: Path | None = None


@dataclass(frozen=True)
class Verdicts:
    """What a threshold makes of test images.

    Parameters
    ----------
    threshold
        A score above it is a defect.
    good
        How many good images are above it, and how many there are.
    kinds
        The same of each kind of defect, by name.
    """

    threshold: float
    good: tuple[int, int]
    kinds: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, images: Sequence[ImageResult], threshold: float) -> Verdicts:
        """Return those of images."""

        def above(some: Sequence[ImageResult]) -> tuple[int, int]:
            return sum(image.score > threshold for image in some), len(some)

        kinds = sorted({image.kind for image in images if image.is_anomalous})
        return cls(
            threshold,
            above([image for image in images if not image.is_anomalous]),
            {kind: above([image for image in images if image.is_anomalous and image.kind == kind]) for kind in kinds},
        )

    @property
    def defective(self) -> tuple[int, int]:
        """How many defective images are above the threshold, and how many there are."""
        return sum(found for found, _ in self.kinds.values()), sum(images for _, images in self.kinds.values())

    @property
    def false_alarm_rate(self) -> float | None:
        """The share of good images above the threshold; None without any."""
        return _share(*self.good)

    @property
    def detection_rate(self) -> float | None:
        """The share of defective images above the threshold; None without any."""
        return _share(*self.defective)

    def to_json(self) -> dict[str, Any]:
        """Return it for ``metrics.json``."""
        (alarms, good), (found, defective) = self.good, self.defective
        return {
            "threshold": self.threshold,
            "good": good,
            "false_alarms": alarms,
            "false_alarm_rate": self.false_alarm_rate,
            "defective": defective,
            "detected": found,
            "detection_rate": self.detection_rate,
            "kinds": {
                kind: {"images": images, "detected": found, "detection_rate": _share(found, images)}
                for kind, (found, images) in self.kinds.items()
            },
        }


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
    images
        The test images that could be read, in order.
    failed
        Those that could not, and unusable masks.
    threshold
        The detector's own threshold, from good images alone.
    scale
        Values of the anomaly maps drawn as the first and last colour; None without maps.
    calibration
        Where that threshold comes from.
    model
        What the model was made of and with, as JSON-like data; see `Detector.describe`.
    """

    name: str
    metrics: Mapping[str, float | None]
    image: ImageMetrics
    pixel: PixelMetrics
    images: Sequence[ImageResult] = ()
    failed: Sequence[Failure] = ()
    threshold: float | None = None
    scale: tuple[float, float] | None = None
    calibration: Calibration | None = None
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdicts(self) -> Verdicts | None:
        """What the model's own threshold makes of the images."""
        return None if self.threshold is None else Verdicts.of(self.images, self.threshold)

    @property
    def has_no_maps(self) -> bool:
        """Whether the method judges whole images only, so that figures by pixel cannot exist."""
        return bool(self.images) and self.scale is None


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
            "at_threshold": {category.name: _at_threshold(category) for category in self.categories},
            "f1_max_threshold": {category.name: category.image.threshold for category in self.categories},
            "failed": [
                {"category": category.name, "path": failure.path, "reason": failure.reason}
                for category in self.categories
                for failure in category.failed
            ],
            "recipe": dict(self.recipe),
        }


def _at_threshold(category: CategoryResult) -> dict[str, Any] | None:
    """Return what the model's own threshold promises, and what it does."""
    verdicts, calibration = category.verdicts, category.calibration
    if verdicts is None:
        return None
    promised = None if calibration is None else calibration.false_alarm_rate
    judged = 0 if calibration is None else len(calibration.scores)
    return {"promised_false_alarm_rate": promised, "calibration_images": judged, **verdicts.to_json()}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


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
    with atomic_write(path) as unfinished:
        # A file name that is no valid Unicode must not cost the whole report.
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
