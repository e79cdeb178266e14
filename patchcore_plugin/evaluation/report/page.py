"""HTML report of an evaluation: one self-contained file that needs no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from patchcore_plugin.data import images as image_files
from patchcore_plugin.data.encoding import downscale, encode_jpeg, encode_png
from patchcore_plugin.errors import ImageError
from patchcore_plugin.evaluation.metrics.pixel import AUPRO_LIMIT
from patchcore_plugin.evaluation.results import (
    METRICS,
    CategoryResult,
    Evaluation,
    ImageResult,
    ThresholdCounts,
    mean_or_none,
    write_text,
)
from patchcore_plugin.inference.rendering import colour_bar

from .charts import Box, calibration_chart, clip, histogram
from .format import HEADINGS, MISSING, cells, number, percent, ratio
from .model_card import limitations, model_card

GALLERY = 6
"""Images per gallery. Together with `THUMBNAIL` it limits the size of the file."""
THUMBNAIL = 320
"""Longest side of an embedded picture, in pixels."""


def write_report(evaluation: Evaluation, path: Path, title: str = "PatchCore evaluation") -> None:
    """Write the report as UTF-8 HTML, atomically.

    Parameters
    ----------
    evaluation
        Results from `evaluate`. Images and overlays are read from their files; a missing one is replaced by its name.
    path
        The file; an existing one is replaced.
    title
        Heading of the page.

    Raises
    ------
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from patchcore_plugin.evaluation import image_metrics, pixel_metrics
    >>> metrics = dict.fromkeys(METRICS) | {"image_auroc": 0.98}
    >>> category = CategoryResult("screw", metrics, image_metrics([], []), pixel_metrics([], []))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(Evaluation([category]), Path(folder) / "report.html")
    ...     "0.980" in (Path(folder) / "report.html").read_text(encoding="utf-8")
    True
    """
    thumbnails = _Thumbnails()
    has_no_maps = bool(evaluation.categories) and all(category.has_no_maps for category in evaluation.categories)
    page = render(
        "report.html.j2",
        title=title,
        recipe=list(flatten(evaluation.recipe)),
        headings={key: HEADINGS[key] for key in METRICS},
        rows=[(category.name, _cells(category)) for category in evaluation.categories],
        mean=cells(evaluation.mean, METRICS, has_no_maps=has_no_maps),
        has_no_maps=has_no_maps,
        images=sum(len(category.images) for category in evaluation.categories),
        failed=sum(len(category.failed) for category in evaluation.categories),
        categories=[_category(category, thumbnails) for category in evaluation.categories],
        bar=_data_url(encode_png(colour_bar(256, 12)), "png"),
        box=Box(),
        limit=AUPRO_LIMIT,
    )
    write_text(path, page)


def render(template: str, **content: object) -> str:
    """Render one of the package's templates.

    Parameters
    ----------
    template
        File name in ``templates``.
    **content
        Variables of the template; their text is escaped.

    Returns
    -------
    str
        The page.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or "", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield the entries of nested mappings as rows of one table, without those that are None.

    Parameters
    ----------
    content
        JSON-like data.
    prefix
        Text before each key.

    Yields
    ------
    key
        Keys of all levels, joined by dots.
    text
        The value as text.

    Examples
    --------
    >>> list(flatten({"sampler": {"name": "all", "ratio": None}, "layers": [2, 3]}))
    [('sampler.name', 'all'), ('layers', '2, 3')]
    """
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            yield from flatten({str(index): item for index, item in enumerate(value)}, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif value is not None:
            yield f"{prefix}{key}", str(value)


def _cells(category: CategoryResult) -> dict[str, str]:
    return cells(category.metrics, METRICS, has_no_maps=category.has_no_maps)


def _category(category: CategoryResult, thumbnails: _Thumbnails) -> dict[str, Any]:
    at_threshold = category.at_threshold
    f1_threshold = category.image.threshold
    at_best_f1 = None if f1_threshold is None else ThresholdCounts.count(category.images, f1_threshold)
    counts = at_threshold or at_best_f1
    threshold = counts.threshold if counts else None
    return {
        "name": category.name,
        "metrics": _cells(category),
        "threshold": None if threshold is None else number(threshold),
        "threshold_label": "model threshold" if at_threshold else "F1-optimal threshold",
        "tables": [
            (title, number(table.threshold), note, table)
            for title, table, note in [
                ("Model threshold", at_threshold, category.calibration and category.calibration.describe()),
                ("F1-optimal threshold", at_best_f1, "best case: chosen with the labels, not achievable in production"),
            ]
            if table
        ],
        "kinds": _kinds(category, [table for table in (at_threshold, at_best_f1) if table]),
        "good": sum(not image.is_anomalous for image in category.images),
        "bad": sum(image.is_anomalous for image in category.images),
        "scale": category.scale and [number(value) for value in category.scale],
        "roc": [
            (name, style, Box().points(curve), value)
            for name, style, curve, value in [
                ("Images", "a", category.image.roc, ratio(category.image.auroc)),
                ("Pixels", "b", category.pixel.roc, ratio(category.pixel.auroc)),
            ]
            if curve is not None
        ],
        "pro": category.pixel.pro and Box().points(clip(category.pixel.pro, AUPRO_LIMIT), AUPRO_LIMIT),
        "histogram": histogram(
            np.array([image.score for image in category.images]),
            np.array([image.is_anomalous for image in category.images], dtype=bool),
            threshold,
        ),
        **_calibration_charts(category),
        "galleries": [] if threshold is None else _galleries(category.images, threshold, thumbnails),
        "card": model_card(category),
        "limitations": limitations(category),
        "failed": category.failed,
    }


def _kinds(category: CategoryResult, tables: Sequence[ThresholdCounts]) -> list[tuple[str, list[str]]]:
    """Return the rows of the table by kind: number of images, share above each threshold, and regions."""
    rows = []
    by_label = sorted(category.images, key=lambda image: image.is_anomalous)
    for kind in dict.fromkeys(image.kind for image in by_label):
        images = [image for image in category.images if image.kind == kind]
        texts = [f"{len(images):,}"]
        for table in tables:
            above = sum(image.score > table.threshold for image in images)
            texts.append(f"{above:,} ({percent(above / len(images))})")
        regions = [image.regions for image in images if image.regions is not None]
        areas = [image.area for image in images if image.area is not None]
        texts += [f"{mean_or_none(regions):,.1f}", percent(mean_or_none(areas))] if regions else [MISSING, MISSING]
        rows.append((kind, texts))
    return rows


def _calibration_charts(category: CategoryResult) -> dict[str, Any]:
    """Return the charts that compare good test images with the calibration images."""
    scores = () if category.calibration is None else category.calibration.scores
    good = [image for image in category.images if not image.is_anomalous]
    both = np.array([*scores, *(image.score for image in good)])
    p_values = [image.p_value for image in good if image.p_value is not None]
    return {
        "calibration_images": len(scores),
        "p_values": calibration_chart(p_values, len(scores)),
        "good_scores": histogram(both, np.arange(len(both)) >= len(scores), category.threshold) if scores else None,
    }


def _galleries(
    images: Iterable[ImageResult], threshold: float, thumbnails: _Thumbnails
) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return title, explanation and cards of each gallery."""
    by_margin = sorted(images, key=lambda image: abs(image.score - threshold))
    correct = [image for image in reversed(by_margin) if (image.score > threshold) == image.is_anomalous]
    wrong = [image for image in reversed(by_margin) if (image.score > threshold) != image.is_anomalous]
    # Scores of defective images reach further from the threshold; without a quota, no good image would be included.
    bad = [image for image in correct if image.is_anomalous]
    good = [image for image in correct if not image.is_anomalous]
    best = bad[: max(GALLERY // 2, GALLERY - len(good))]
    best += good[: GALLERY - len(best)]
    return [
        (title, text, [_card(image, threshold, thumbnails) for image in group[:GALLERY]])
        for title, text, group in (
            ("Misclassified", "On the wrong side of the threshold; furthest from it first.", wrong),
            ("Borderline", "Closest to the threshold, on either side.", by_margin),
            ("Most confident", "On the correct side of the threshold; furthest from it first.", best),
        )
    ]


def _card(image: ImageResult, threshold: float, thumbnails: _Thumbnails) -> dict[str, Any]:
    is_above = image.score > threshold
    results = {(True, True): "detected", (False, False): "passed", (True, False): "false alarm"}
    return {
        "name": f"{image.path.parent.name}/{image.path.name}",
        "kind": image.kind,
        "score": number(image.score),
        "p_value": None if image.p_value is None else number(image.p_value),
        "regions": None if image.regions is None else _regions(image.regions, image.area or 0.0),
        "result": results.get((is_above, image.is_anomalous), "missed"),
        "correct": is_above == image.is_anomalous,
        "nearest": image.nearest and Path(image.nearest).name,
        "image": thumbnails.url(image.path),
        "overlay": thumbnails.url(image.overlay) if image.overlay else None,
        "why": thumbnails.url(image.why) if image.why else None,
    }


def _regions(count: int, area: float) -> str:
    return f"{count:,}, covering {percent(area)} of the image" if count else "none"


class _Thumbnails:
    """Thumbnails as data URLs, each read once even if it appears in several galleries."""

    def __init__(self) -> None:
        self._urls: dict[Path, str | None] = {}

    def url(self, path: Path) -> str | None:
        """Return the thumbnail of an image file; None if the file is no longer readable."""
        if path not in self._urls:
            try:
                pixels = image_files.to_8_bit(image_files.read_image(path))
            except ImageError:
                self._urls[path] = None
            else:
                self._urls[path] = _data_url(encode_jpeg(downscale(pixels, THUMBNAIL), quality=82), "jpeg")
        return self._urls[path]


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
