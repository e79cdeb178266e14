"""One self-contained page about an evaluation: it opens from disk and asks no network for anything."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import numpy.typing as npt

from . import images
from .errors import ImageError
from .metrics import AUPRO_LIMIT, Curve
from .rendering import colour_bar, to_8_bit
from .results import METRICS, CategoryResult, Evaluation, PhotoResult, write_text

GALLERY = 6
"""Photos per gallery; with `THUMBNAIL` it bounds the size of the page."""
THUMBNAIL = 320
"""Longest side of an embedded picture, in pixels."""
BINS = 24
MISSING = "n/a"

HEADINGS = {
    "image_auroc": "Image AUROC",
    "image_ap": "Image AP",
    "image_f1_max": "Image F1-max",
    "pixel_auroc": "Pixel AUROC",
    "aupro": f"AUPRO to {AUPRO_LIMIT:g}",
    "fit_seconds": "Fit",
    "predict_seconds_per_image": "Per photo",
    "bank_rows": "Bank rows",
    "covering_radius": "Covering radius",
}


@dataclass(frozen=True)
class Box:
    """The drawing area of a chart inside its SVG, in SVG units."""

    left: float = 42
    top: float = 8
    width: float = 270
    height: float = 196

    def points(self, curve: Curve, x_max: float = 1.0) -> str:
        """Return the curve as the ``points`` of a polyline; the ordinates run from 0 to 1."""
        x = self.left + curve.x / x_max * self.width
        y = self.top + (1 - curve.y) * self.height
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def write_report(evaluation: Evaluation, path: Path, title: str = "PatchCore evaluation") -> None:
    """Write the page, UTF-8 HTML, replacing an older one at once.

    Parameters
    ----------
    evaluation
        What `evaluate` returned. Photos and overlays are read again from where it says; one that is gone is
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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = _Pictures()
    page = environment.get_template("report.html.j2").render(
        title=title,
        recipe=list(_flat(evaluation.recipe)),
        headings=HEADINGS,
        rows=[(category.name, _cells(category.metrics)) for category in evaluation.categories],
        mean=_cells(evaluation.mean),
        photos=sum(len(category.photos) for category in evaluation.categories),
        failed=sum(len(category.failed) for category in evaluation.categories),
        categories=[_category(category, pictures) for category in evaluation.categories],
        bar=_embedded(colour_bar(256, 12), ".png"),
        box=Box(),
        limit=AUPRO_LIMIT,
    )
    write_text(path, page)


def _category(category: CategoryResult, pictures: _Pictures) -> dict[str, Any]:
    threshold = category.image.threshold
    by_f1 = threshold is not None
    if threshold is None:
        threshold = category.threshold
    galleries = []
    mistakes = None
    if threshold is not None:
        chosen = threshold
        best, worst, doubtful = _choose(category.photos, chosen)
        galleries = [
            ("Worst", "on the wrong side of the threshold, furthest first", worst),
            ("Most doubtful", "closest to the threshold, on either side", doubtful),
            ("Best", "most clearly on the right side", best),
        ]
        wrong = [photo for photo in category.photos if not _is_right(photo, chosen)]
        mistakes = {
            "missed": sum(photo.is_anomalous for photo in wrong),
            "false_alarms": sum(not photo.is_anomalous for photo in wrong),
        }
    return {
        "name": category.name,
        "figures": _cells(category.metrics),
        "threshold": None if threshold is None else _number(threshold),
        "by_f1": by_f1,
        "mistakes": mistakes,
        "good": sum(not photo.is_anomalous for photo in category.photos),
        "bad": sum(photo.is_anomalous for photo in category.photos),
        "scale": category.scale and [_number(value) for value in category.scale],
        "roc": [
            (name, style, Box().points(curve), value)
            for name, style, curve, value in [
                ("Photos", "a", category.image.roc, _ratio(category.image.auroc)),
                ("Pixels", "b", category.pixel.roc, _ratio(category.pixel.auroc)),
            ]
            if curve is not None
        ],
        "pro": category.pixel.pro and Box().points(_cut(category.pixel.pro, AUPRO_LIMIT), AUPRO_LIMIT),
        "histogram": _histogram(category.photos, threshold),
        "galleries": [
            (name, meaning, [_card(photo, threshold, pictures) for photo in photos])
            for name, meaning, photos in galleries
        ],
        "failed": category.failed,
    }


def _is_right(photo: PhotoResult, threshold: float) -> bool:
    return (photo.score > threshold) == photo.is_anomalous


def _choose(
    photos: Iterable[PhotoResult], threshold: float
) -> tuple[list[PhotoResult], list[PhotoResult], list[PhotoResult]]:
    """Return the best, worst and most doubtful photos; the best are from both classes in turn."""
    by_margin = sorted(photos, key=lambda photo: abs(photo.score - threshold))
    right = [photo for photo in reversed(by_margin) if _is_right(photo, threshold)]
    worst = [photo for photo in reversed(by_margin) if not _is_right(photo, threshold)]
    # The scores of defective photos reach further: without this no good photo would be among the best.
    bad = [photo for photo in right if photo.is_anomalous]
    good = [photo for photo in right if not photo.is_anomalous]
    share = max(GALLERY // 2, GALLERY - len(good))
    best = bad[:share]
    return best + good[: GALLERY - len(best)], worst[:GALLERY], by_margin[:GALLERY]


def _card(photo: PhotoResult, threshold: float | None, pictures: _Pictures) -> dict[str, Any]:
    called = None if threshold is None else photo.score > threshold
    return {
        "name": f"{photo.path.parent.name}/{photo.path.name}",
        "kind": photo.kind,
        "bad": photo.is_anomalous,
        "score": _number(photo.score),
        "verdict": "" if called is None else _verdict(called, photo.is_anomalous),
        "right": called is None or called == photo.is_anomalous,
        "nearest": photo.nearest and Path(photo.nearest).name,
        "photo": pictures.of(photo.path),
        "overlay": pictures.of(photo.overlay) if photo.overlay else None,
    }


def _verdict(called: bool, is_anomalous: bool) -> str:
    if called == is_anomalous:
        return "found defective" if called else "passed as good"
    return "false alarm" if called else "missed"


class _Pictures:
    """Thumbnails as data addresses, each read once; a photo may stand in several galleries."""

    def __init__(self) -> None:
        self._known: dict[Path, str | None] = {}

    def of(self, path: Path) -> str | None:
        """Return the picture, or None if it cannot be read any more."""
        if path not in self._known:
            try:
                photo = to_8_bit(images.read_photo(path))
            except ImageError:
                self._known[path] = None
            else:
                self._known[path] = _embedded(_shrunk(photo), ".jpg")
        return self._known[path]


def _shrunk(photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = photo.shape[:2]
    factor = THUMBNAIL / max(height, width)
    if factor >= 1:
        return photo
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _embedded(picture: npt.NDArray[np.uint8], extension: str) -> str:
    kind = {".jpg": "jpeg", ".png": "png"}[extension]
    options = [cv2.IMWRITE_JPEG_QUALITY, 82] if kind == "jpeg" else []
    _, data = cv2.imencode(extension, np.ascontiguousarray(picture[..., ::-1]), options)
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


def _cut(curve: Curve, limit: float) -> Curve:
    """Return the part of the curve up to the abscissa `limit`, its last point on the line there."""
    inside = curve.x <= limit
    if inside.all():
        return curve
    y = np.interp(limit, [curve.x[inside][-1], curve.x[~inside][0]], [curve.y[inside][-1], curve.y[~inside][0]])
    return Curve(np.append(curve.x[inside], limit), np.append(curve.y[inside], y))


def _histogram(photos: Sequence[PhotoResult], threshold: float | None) -> dict[str, Any] | None:
    """Return the bars of a mirrored histogram, good above and defective below, in SVG units."""
    if not photos:
        return None
    scores = np.array([photo.score for photo in photos])
    bad = np.array([photo.is_anomalous for photo in photos])
    shown = scores if threshold is None else np.append(scores, threshold)
    low, high = float(shown.min()), float(shown.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        half = max(0.5, 1e-6 * abs(high))
        low, high = low - half, high + half
    counts = [np.histogram(scores[group], bins=BINS, range=(low, high))[0] for group in (~bad, bad)]
    most = max(int(count.max()) for count in counts)
    box = Box()
    middle = box.top + box.height / 2
    step, unit = box.width / BINS, (box.height / 2 - 12) / most
    bars = []
    for style, sign, count in (("a", 1, counts[0]), ("b", -1, counts[1])):
        for position, number in enumerate(count):
            top = middle - number * unit if sign > 0 else middle
            if number:
                bars.append((style, box.left + position * step + 1, top, step - 2, number * unit))
    at = None if threshold is None else box.left + (threshold - low) / (high - low) * box.width
    return {
        "bars": bars,
        "middle": middle,
        "threshold": at,
        "low": _number(low),
        "high": _number(high),
        "most": most,
    }


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif value is not None:
            yield f"{prefix}{key}", str(value)


def _cells(figures: Mapping[str, float | None]) -> dict[str, str]:
    forms = dict.fromkeys(METRICS[:5], _ratio) | {
        "fit_seconds": _seconds,
        "predict_seconds_per_image": _seconds,
        "bank_rows": lambda value: MISSING if value is None else f"{value:,.0f}",
        "covering_radius": _number,
    }
    return {key: forms[key](figures[key]) for key in METRICS}


def _ratio(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:,.1f} s"


def _number(value: float | None) -> str:
    """Return a number of unknown magnitude with four significant digits and no exponent where it can be."""
    if value is None:
        return MISSING
    if value == 0 or not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
