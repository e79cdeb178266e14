"""One self-contained page about an evaluation: it opens from disk and asks no network for anything."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import numpy.typing as npt

from patchcore_plugin.data import images as image_files
from patchcore_plugin.data.images import to_8_bit
from patchcore_plugin.errors import ImageError
from patchcore_plugin.evaluation.metrics import AUPRO_LIMIT
from patchcore_plugin.evaluation.results import (
    METRICS,
    CategoryResult,
    Evaluation,
    ImageResult,
    Verdicts,
    mean_of,
    write_text,
)
from patchcore_plugin.inference.rendering import colour_bar

from .charts import Box, calibration_chart, cut, histogram
from .format import HEADINGS, MISSING, cells, number, percent, ratio
from .model_card import limits, model_card

GALLERY = 6
"""Images per gallery; with `THUMBNAIL` it bounds the size of the page."""
THUMBNAIL = 320
"""Longest side of an embedded picture, in pixels."""


def write_report(evaluation: Evaluation, path: Path, title: str = "PatchCore evaluation") -> None:
    """Write the page, UTF-8 HTML, replacing an older one at once.

    Parameters
    ----------
    evaluation
        What `evaluate` returned. Images and overlays are read again from where it says; one that is gone is
        replaced by its name.
    path
        The file to write.
    title
        Heading of the page.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    pictures = _Pictures()
    has_no_maps = bool(evaluation.categories) and all(each.has_no_maps for each in evaluation.categories)
    page = render(
        "report.html.j2",
        title=title,
        recipe=list(flat(evaluation.recipe)),
        headings={key: HEADINGS[key] for key in METRICS},
        rows=[(category.name, _cells(category)) for category in evaluation.categories],
        mean=cells(evaluation.mean, METRICS, has_no_maps=has_no_maps),
        has_no_maps=has_no_maps,
        images=sum(len(category.images) for category in evaluation.categories),
        failed=sum(len(category.failed) for category in evaluation.categories),
        categories=[_category(category, pictures) for category in evaluation.categories],
        bar=_embedded(colour_bar(256, 12), ".png"),
        box=Box(),
        limit=AUPRO_LIMIT,
    )
    write_text(path, page)


def render(template: str, **content: object) -> str:
    """Return a page made of one of the package's templates; whatever text it is given is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or "", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)


def _cells(category: CategoryResult) -> dict[str, str]:
    return cells(category.metrics, METRICS, has_no_maps=category.has_no_maps)


def _category(category: CategoryResult, pictures: _Pictures) -> dict[str, Any]:
    verdicts = category.verdicts
    best_f1 = category.image.threshold
    by_f1 = None if best_f1 is None else Verdicts.of(category.images, best_f1)
    chosen = verdicts or by_f1
    threshold = chosen.threshold if chosen else None
    galleries = []
    if threshold is not None:
        best, worst, doubtful = _choose(category.images, threshold)
        galleries = [
            ("Worst", "on the wrong side of the threshold, furthest first", worst),
            ("Most doubtful", "closest to the threshold, on either side", doubtful),
            ("Best", "most clearly on the right side", best),
        ]
    return {
        "name": category.name,
        "figures": _cells(category),
        "threshold": None if threshold is None else number(threshold),
        "own": verdicts is not None,
        "tables": [
            (title, number(each.threshold), note, each)
            for title, each, note in [
                ("At the threshold of the model", verdicts, category.calibration and category.calibration.describe()),
                ("At the threshold with the best F1", by_f1, "chosen knowing the answers, which no line in use does"),
            ]
            if each
        ],
        "kinds": _kinds(category, verdicts, by_f1),
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
        "pro": category.pixel.pro and Box().points(cut(category.pixel.pro, AUPRO_LIMIT), AUPRO_LIMIT),
        "histogram": histogram(
            np.array([image.score for image in category.images]),
            np.array([image.is_anomalous for image in category.images], dtype=bool),
            threshold,
        ),
        **_calibrated(category),
        "galleries": [
            (name, meaning, [_card(image, threshold, pictures) for image in images])
            for name, meaning, images in galleries
        ],
        "card": model_card(category),
        "limits": limits(category),
        "failed": category.failed,
    }


def _kinds(category: CategoryResult, *verdicts: Verdicts | None) -> list[tuple[str, list[str]]]:
    """Return the rows of the table by kind: images, how many each threshold calls defective, and their regions."""
    rows = []
    # Good ones first; the kinds are the same at every threshold.
    for kind in dict.fromkeys(image.kind for image in sorted(category.images, key=lambda image: image.is_anomalous)):
        images = [image for image in category.images if image.kind == kind]
        cells = [f"{len(images):,}"]
        for each in verdicts:
            if each is not None:
                found = sum(image.score > each.threshold for image in images)
                cells.append(f"{found:,} ({percent(found / len(images))})")
        regions = [image.regions for image in images if image.regions is not None]
        areas = [image.area for image in images if image.area is not None]
        cells += [f"{mean_of(regions):,.1f}", percent(mean_of(areas))] if regions else [MISSING, MISSING]
        rows.append((kind, cells))
    return rows


def _calibrated(category: CategoryResult) -> dict[str, Any]:
    """Return the charts that say whether the good test images are like those of the calibration."""
    scores = () if category.calibration is None else category.calibration.scores
    good = [image for image in category.images if not image.is_anomalous]
    both = np.array([*scores, *(image.score for image in good)])
    return {
        "judged": len(scores),
        "promise": calibration_chart([each.p_value for each in good if each.p_value is not None], len(scores)),
        "calibration": histogram(both, np.arange(len(both)) >= len(scores), category.threshold) if scores else None,
    }


def _is_right(image: ImageResult, threshold: float) -> bool:
    return (image.score > threshold) == image.is_anomalous


def _choose(
    images: Iterable[ImageResult], threshold: float
) -> tuple[list[ImageResult], list[ImageResult], list[ImageResult]]:
    """Return the best, worst and most doubtful images; the best are from both classes in turn."""
    by_margin = sorted(images, key=lambda image: abs(image.score - threshold))
    right = [image for image in reversed(by_margin) if _is_right(image, threshold)]
    worst = [image for image in reversed(by_margin) if not _is_right(image, threshold)]
    # The scores of defective images reach further: without this no good image would be among the best.
    bad = [image for image in right if image.is_anomalous]
    good = [image for image in right if not image.is_anomalous]
    share = max(GALLERY // 2, GALLERY - len(good))
    best = bad[:share]
    return best + good[: GALLERY - len(best)], worst[:GALLERY], by_margin[:GALLERY]


def _card(image: ImageResult, threshold: float | None, pictures: _Pictures) -> dict[str, Any]:
    called = None if threshold is None else image.score > threshold
    return {
        "name": f"{image.path.parent.name}/{image.path.name}",
        "kind": image.kind,
        "bad": image.is_anomalous,
        "score": number(image.score),
        "p_value": None if image.p_value is None else number(image.p_value),
        "regions": None if image.regions is None else _regions(image.regions, image.area or 0.0),
        "verdict": "" if called is None else _verdict(called, image.is_anomalous),
        "right": called is None or called == image.is_anomalous,
        "nearest": image.nearest and Path(image.nearest).name,
        "image": pictures.of(image.path),
        "overlay": pictures.of(image.overlay) if image.overlay else None,
        "why": pictures.of(image.why) if image.why else None,
    }


def _regions(count: int, area: float) -> str:
    return f"{count:,}, {percent(area)} of the image" if count else "none"


def _verdict(called: bool, is_anomalous: bool) -> str:
    if called == is_anomalous:
        return "found defective" if called else "passed as good"
    return "false alarm" if called else "missed"


class _Pictures:
    """Thumbnails as data addresses, each read once; an image may stand in several galleries."""

    def __init__(self) -> None:
        self._known: dict[Path, str | None] = {}

    def of(self, path: Path) -> str | None:
        """Return the picture, or None if it cannot be read any more."""
        if path not in self._known:
            try:
                image = to_8_bit(image_files.read_image(path))
            except ImageError:
                self._known[path] = None
            else:
                self._known[path] = _embedded(_shrunk(image), ".jpg")
        return self._known[path]


def _shrunk(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = image.shape[:2]
    factor = THUMBNAIL / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _embedded(picture: npt.NDArray[np.uint8], extension: str) -> str:
    kind = {".jpg": "jpeg", ".png": "png"}[extension]
    options = [cv2.IMWRITE_JPEG_QUALITY, 82] if kind == "jpeg" else []
    _, data = cv2.imencode(extension, np.ascontiguousarray(picture[..., ::-1]), options)
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield the entries of nested tables as lines of one table; those that are None are left out."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
            yield from flat({str(number): each for number, each in enumerate(value)}, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif value is not None:
            yield f"{prefix}{key}", str(value)
