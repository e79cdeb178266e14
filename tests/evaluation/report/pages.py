"""Results of drawn categories, and a parser for their HTML pages."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from patchcore_plugin.evaluation.metrics.image import image_metrics
from patchcore_plugin.evaluation.metrics.pixel import pixel_metrics
from patchcore_plugin.evaluation.results import METRICS, CategoryResult, ImageResult
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.held_out_score import HeldOutScore
from patchcore_plugin.plugins.specs import ROLES

CALIBRATION = Calibration.from_held_out([HeldOutScore(1 + k / 10, 0.0, 2 + k / 10) for k in range(11)], "eleven images")
MODEL: dict[str, Any] = {
    "images": 11,
    "folders": ["nut/train/good"],
    "recipe": {role: {"name": f"my-{role}"} for role in ROLES},
    "plugins": {role: {"distribution": "mine", "version": "1.2"} for role in ROLES},
    "backbone_sha256": "abc123",
    "bank_rows": 1234,
    "patches_seen": 12340,
    "covering_radius": 3.14159,
    "seed": 7,
    "precision": "fp32",
    "software": {"python": "3.11"},
}
SCORES = {"good": [1.0, 1.2, 1.1, 3.5], "hole": [5.0, 2.9, 0.5, 4.0]}
GALLERIES = ("Misclassified", "Borderline", "Most confident")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags with attributes and text, and checks that the tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        """The whole text, with single spaces."""
        return " ".join(" ".join(self.text).split())

    @property
    def alternatives(self) -> list[str]:
        """The alternative texts of all pictures."""
        return [attributes["alt"] for tag, attributes in self.tags if tag == "img"]

    def cards(self) -> dict[str, list[str]]:
        """Return the names of the images by gallery."""
        parts = re.split(rf"\b({'|'.join(GALLERIES)}) ", self.words.split("Model card")[0])[1:]
        names = (re.findall(r"\S+/\d+\.png", part.split("Skipped files")[0]) for part in parts[1::2])
        return dict(zip(parts[::2], names, strict=True))


def make_image(path: Path, size: tuple[int, int] = (40, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), 120, dtype=np.uint8))
    return path


def make_category(folder: Path, name: str, scores: dict[str, list[float]], overlays: bool = True) -> CategoryResult:
    images = []
    for kind, values in scores.items():
        for index, score in enumerate(values):
            overlay = make_image(folder / "out" / f"{name}_{kind}_{index:03}.png") if overlays else None
            images.append(
                ImageResult(
                    make_image(folder / name / kind / f"{index:03}.png"),
                    kind,
                    kind != "good",
                    score,
                    overlay,
                    "/far/away/train/007.png",
                    p_value=CALIBRATION.p_value(score),
                    regions=index if overlays else None,
                    area=0.01 * index if overlays else None,
                    why=make_image(folder / "why" / f"{name}_{kind}_{index}.png", (30, 70)) if score > 2 else None,
                )
            )
    image = image_metrics([image.is_anomalous for image in images], [image.score for image in images])
    rng = np.random.default_rng(0)
    mask = np.zeros((30, 30), dtype=bool)
    mask[5:12, 5:12] = True
    pixel = pixel_metrics([mask], [rng.random((30, 30)) + mask]) if overlays else pixel_metrics([], [])
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    metrics |= {
        "image_auroc": image.auroc,
        "pixel_auroc": pixel.auroc,
        "aupro": pixel.aupro,
        "fit_seconds": 12.34,
        "predict_seconds_per_image": 0.0451,
        "bank_rows": 12345,
        "covering_radius": 3.14159,
    }
    return CategoryResult(
        name,
        metrics,
        image.thin(),
        pixel.thin(),
        images,
        threshold=2.0,
        scale=(1.5, 4.0) if overlays else None,
        calibration=CALIBRATION,
        model=MODEL,
    )


def charts_of(text: str) -> dict[str, ElementTree.Element]:
    """Return the charts of a page, that is SVG with text, by the beginning of their label."""
    elements = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if "<text" in svg]
    return {element.attrib["aria-label"].split(":")[0]: element for element in elements}
