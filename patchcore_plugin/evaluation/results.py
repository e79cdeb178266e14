"""Results of an evaluation and their JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_plugin.data.atomic import atomic_write

if TYPE_CHECKING:
    from patchcore_plugin.models.calibration import Calibration

    from .metrics.image import ImageMetrics
    from .metrics.pixel import PixelMetrics

METRICS = (
    *("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "aupro", "false_alarm_rate", "detection_rate"),
    *("fit_seconds", "predict_seconds_per_image", "bank_rows", "covering_radius"),
)
"""Metrics of a category, in display order."""

COMPARISON_METRICS = (
    *("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "aupro"),
    *("fit_seconds_per_image", "predict_seconds_per_image", "peak_memory_bytes", "peak_gpu_memory_bytes", "bank_rows"),
)
"""Metrics by which recipes are compared, in display order."""


@dataclass(frozen=True)
class Failure:
    """An image or mask that could not be used, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageResult:
    """Label, prediction and pictures of one test image.

    Parameters
    ----------
    path
        The image file.
    kind
        "good", or the kind of defect.
    is_anomalous
        The label.
    score, p_value
        The prediction. `p_value` is None if the model is not calibrated.
    overlay, why
        Picture files, if they were drawn: the heat map over the image, and the most anomalous patch next to its
        nearest training patch.
    nearest
        Path of the training image that the nearest training patch comes from.
    regions, area
        Number of regions above the map threshold, and the share of the image that they cover. None without such a
        threshold.
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
class ThresholdCounts:
    """Number of test images above a threshold.

    Parameters
    ----------
    threshold
        An image is predicted defective if its score is above this value.
    good
        Good images: how many are above the threshold, and how many there are.
    kinds
        The same two numbers by kind of defect.

    Examples
    --------
    >>> images = [ImageResult(Path(f"{k}.png"), "good", False, score) for k, score in enumerate([1.0, 2.0, 3.0])]
    >>> ThresholdCounts.count(images, 2.0).good
    (1, 3)
    """

    threshold: float
    good: tuple[int, int]
    kinds: Mapping[str, tuple[int, int]]

    @classmethod
    def count(cls, images: Sequence[ImageResult], threshold: float) -> ThresholdCounts:
        """Return how many good images, and how many images of each kind of defect, have higher scores than a threshold.

        Parameters
        ----------
        images
            The test images.
        threshold
            Any score.
        """

        def above(group: Sequence[ImageResult]) -> tuple[int, int]:
            return sum(image.score > threshold for image in group), len(group)

        kinds = sorted({image.kind for image in images if image.is_anomalous})
        return cls(
            threshold,
            above([image for image in images if not image.is_anomalous]),
            {kind: above([image for image in images if image.is_anomalous and image.kind == kind]) for kind in kinds},
        )

    @property
    def defective(self) -> tuple[int, int]:
        """Defective images: how many are above the threshold, and how many there are."""
        return sum(above for above, _ in self.kinds.values()), sum(total for _, total in self.kinds.values())

    @property
    def false_alarm_rate(self) -> float | None:
        """Share of good images above the threshold; None without good images."""
        return _share(*self.good)

    @property
    def detection_rate(self) -> float | None:
        """Share of defective images above the threshold; None without defective images."""
        return _share(*self.defective)

    def to_json(self) -> dict[str, Any]:
        """Return the counts and rates as in ``metrics.json``."""
        (false_alarms, good), (detected, defective) = self.good, self.defective
        return {
            "threshold": self.threshold,
            "good": good,
            "false_alarms": false_alarms,
            "false_alarm_rate": self.false_alarm_rate,
            "defective": defective,
            "detected": detected,
            "detection_rate": self.detection_rate,
            "kinds": {
                kind: {"images": total, "detected": above, "detection_rate": _share(above, total)}
                for kind, (above, total) in self.kinds.items()
            },
        }


@dataclass(frozen=True)
class CategoryResult:
    """Results of one category.

    Parameters
    ----------
    name
        Name of the category.
    metrics
        A value or None for each of `METRICS`; in a comparison of recipes, also for each of `COMPARISON_METRICS`.
    image, pixel
        Image-level and pixel-level metrics with their curves, reduced for drawing.
    images
        The readable test images, in order.
    failed
        Unreadable images and unusable masks.
    threshold
        The model's threshold, computed from good images only.
    scale
        Anomaly scores drawn as the first and the last colour of a heat map. None without anomaly maps.
    calibration
        The source of `threshold`.
    model
        Components and settings of the model, as JSON-like data; see `Detector.describe`.
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
    def at_threshold(self) -> ThresholdCounts | None:
        """Test images above the model's threshold; None without a threshold."""
        return None if self.threshold is None else ThresholdCounts.count(self.images, self.threshold)

    @property
    def has_no_maps(self) -> bool:
        """Whether the method scores whole images only, so that pixel-level metrics cannot exist."""
        return bool(self.images) and self.scale is None


@dataclass(frozen=True)
class Evaluation:
    """Results of all categories.

    Parameters
    ----------
    categories
        One result per category.
    recipe
        The evaluated recipe with all options, as JSON-like data.
    """

    categories: Sequence[CategoryResult]
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> dict[str, float | None]:
        """Mean of each metric over the categories that have it."""
        return {key: mean_or_none([category.metrics[key] for category in self.categories]) for key in METRICS}

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
    """Return the guaranteed false-alarm rate and the observed counts at the model's threshold."""
    counts, calibration = category.at_threshold, category.calibration
    if counts is None:
        return None
    return {
        "guaranteed_false_alarm_rate": None if calibration is None else calibration.false_alarm_rate,
        "calibration_images": 0 if calibration is None else len(calibration.scores),
        **counts.to_json(),
    }


def _share(part: int, total: int) -> float | None:
    return part / total if total else None


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically.

    Parameters
    ----------
    path
        The file; an existing one is replaced.
    content
        JSON-like data.

    Raises
    ------
    ValueError
        If a number is NaN or infinite.
    OSError
        If the file cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically.

    Parameters
    ----------
    path
        The file; an existing one is replaced.
    text
        Characters that are not valid Unicode, as in some file names, are written as escapes.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
