"""The report of an evaluation: content, self-containedness and size."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import cv2
import numpy as np
import pytest

from patchcore_plugin.evaluation.metrics.image import ImageMetrics
from patchcore_plugin.evaluation.metrics.pixel import PixelMetrics
from patchcore_plugin.evaluation.report.page import GALLERY, THUMBNAIL, write_report
from patchcore_plugin.evaluation.results import METRICS, CategoryResult, Evaluation, Failure
from tests.evaluation.report.pages import GALLERIES, SCORES, Page, charts_of, make_category, make_image


def write(folder: Path, *categories: CategoryResult, recipe: Mapping[str, object] | None = None) -> tuple[str, Page]:
    path = folder / "report.html"
    write_report(Evaluation(categories, recipe or {}), path)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_page_is_self_contained(tmp_path: Path) -> None:
    text, page = write(tmp_path, make_category(tmp_path, "nut", SCORES))
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/"))
    for reference in ("url(", "@import", "http:", "https:"):
        assert reference not in text
    policy = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {a["href"] for tag, a in page.tags if tag == "a"} <= {f"#{name}" for name in ids}


def test_pictures_are_small_and_have_alternative_texts(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", SCORES)
    make_image(category.images[0].path, (1500, 900))
    _, page = write(tmp_path, category)
    sides = set()
    for attributes in (attributes for tag, attributes in page.tags if tag == "img"):
        assert attributes["alt"]
        data = np.frombuffer(base64.b64decode(attributes["src"].split(",")[1]), dtype=np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert picture is not None
        sides.add(picture.shape[:2])
    assert sides == {(THUMBNAIL, 192), (40, 60), (30, 70), (12, 256)}
    assert "Heat map of hole/002.png" in page.alternatives


def test_galleries(tmp_path: Path) -> None:
    _, page = write(tmp_path, make_category(tmp_path, "nut", SCORES))
    cards = page.cards()
    assert cards["Misclassified"] == ["hole/002.png", "good/003.png"]
    # The threshold is 2; the closest scores are 1.2, and then 1.1 and 2.9.
    assert cards["Borderline"][0] == "good/001.png"
    assert set(cards["Borderline"][1:3]) == {"hole/001.png", "good/002.png"}
    assert cards["Most confident"] == [
        "hole/000.png", "hole/003.png", "hole/001.png", "good/000.png", "good/002.png", "good/001.png"
    ]  # fmt: skip


def test_galleries_are_bounded(tmp_path: Path) -> None:
    scores = {"good": [float(k) for k in range(20)], "hole": [float(k) + 0.5 for k in range(20)]}
    _, page = write(tmp_path, make_category(tmp_path, "nut", scores))
    assert {name: len(names) for name, names in page.cards().items()} == dict.fromkeys(GALLERIES, GALLERY)


@pytest.mark.parametrize(("good", "expected"), [(9, 3), (1, 1), (0, 0)])
def test_most_confident_images_are_of_both_classes(tmp_path: Path, good: int, expected: int) -> None:
    scores = {"good": [0.1 * k for k in range(good)], "hole": [10.0 * k for k in range(2, 12)]}
    _, page = write(tmp_path, make_category(tmp_path, "nut", scores))
    kinds = [name.split("/")[0] for name in page.cards()["Most confident"]]
    assert kinds == ["hole"] * (GALLERY - expected) + ["good"] * expected


def test_card_has_result_score_and_p_value(tmp_path: Path) -> None:
    _, page = write(tmp_path, make_category(tmp_path, "nut", SCORES))
    cards = re.findall(r"(\w+/\d+\.png) Label (.*?) Nearest 007\.png", page.words)
    assert len(cards) == 14
    (false_alarm,) = {text for name, text in cards if name == "good/003.png"}
    for part in ("good", "false alarm", "3.500", "threshold 2.000", "0.08333", "Regions 3, covering 3%"):
        assert part in false_alarm
    assert {"hole/000.png": "detected", "hole/002.png": "missed", "good/000.png": "passed"}.items() <= {
        name: text.split()[2] for name, text in cards
    }.items()
    assert "/far/away" not in page.words
    why = [text for text in page.alternatives if "anomalous patch" in text]
    assert any("good/003.png" in text for text in why)
    assert not any("good/001.png" in text for text in why)


def test_counts_at_both_thresholds_and_by_kind(tmp_path: Path) -> None:
    # The F1-optimal threshold lies between 1.2 and 2.02.
    category = make_category(tmp_path, "nut", {**SCORES, "cut": [2.2, 2.02]})
    images = [replace(image, regions=1234) if image.kind == "hole" else image for image in category.images]
    text, page = write(tmp_path, replace(category, threshold=2.5, images=images))
    for fact in (
        "Model threshold: 2.500",
        "Good 3 1 Defective 3 3",
        "F1-optimal threshold: 1.610",
        "Good 3 1 Defective 1 5",
        "good 4 1 (25%) 1 (25%) 1.5 1.5%",
        "hole 4 3 (75%) 3 (75%) 1,234.0 1.5%",
        "cut 2 0 (0%) 2 (100%) 0.5 0.5%",
    ):
        assert fact in page.words
    assert text.count('<td class="wrong">') == 4


def test_metrics_mean_recipe_and_failures(tmp_path: Path) -> None:
    nut = make_category(tmp_path, "nut", {"good": [1.0, 2.0], "hole": [3.0, 4.0]})
    bolt = make_category(tmp_path, "bolt", {"good": [1.0, 3.0], "hole": [2.0, 4.0]})
    nut = replace(nut, failed=[Failure("a/<b>.png", "a/<b>.png: not an image & never was")])
    recipe = {"name": "patchcore", "sampler": {"name": "greedy-coreset", "ratio": 0.1}, "layers": [2, 3]}
    text, page = write(tmp_path, nut, bolt, recipe=recipe)
    for fact in (
        "nut 1.000 n/a n/a",
        "bolt 0.750 n/a n/a",
        "Mean 0.875 n/a n/a",
        "12.3 s 45 ms 12,345 3.142",
        "sampler.ratio 0.1",
        "layers 2, 3",
        "1 file skipped",
        "a/<b>.png: not an image & never was",
    ):
        assert fact in page.words
    assert "<b>" not in text


def points_of(line: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, point.split(","))) for point in line.split()]


def test_charts_show_the_curves(tmp_path: Path) -> None:
    text, _ = write(tmp_path, make_category(tmp_path, "nut", SCORES))
    charts = charts_of(text)
    roc, pro, test_scores, good_scores, p_values = charts.values()
    for chart, expected in ((roc, 2), (pro, 1)):
        lines = chart.findall("polyline")
        assert len(lines) == expected
        for line in lines:
            points = points_of(line.attrib["points"])
            # SVG ordinates decrease upwards: the curve never turns back or down.
            assert all(a[0] <= b[0] and a[1] >= b[1] for a, b in itertools.pairwise(points))

    def heights(chart: Element) -> dict[str, float]:
        sums = {"bar a": 0.0, "bar b": 0.0}
        for bar in chart.findall("rect"):
            sums[bar.attrib["class"]] += float(bar.attrib["height"])
        return sums

    shares = heights(test_scores)
    assert shares["bar a"] == pytest.approx(shares["bar b"], abs=0.5)
    # 11 calibration images above the axis, 4 test images below it.
    shares = heights(good_scores)
    assert shares["bar a"] / shares["bar b"] == pytest.approx(11 / 4, abs=0.05)
    assert len(p_values.findall("polyline")) == len(p_values.findall("polygon")) == 1


def test_category_without_maps(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", SCORES, overlays=False)
    _, page = write(tmp_path, category)
    assert not [text for text in page.alternatives if text.startswith(("Heat", "Colour"))]
    assert "no map no map" in page.words
    assert "no anomaly maps" in page.words
    assert not [label for label in charts_of(write(tmp_path, category)[0]) if "overlap" in label]
    with_maps, _ = write(tmp_path, make_category(tmp_path, "nut", SCORES))
    assert "no map" not in with_maps


def test_category_without_one_class_images_or_threshold(tmp_path: Path) -> None:
    _, page = write(tmp_path, make_category(tmp_path, "bolt", {"good": [1.0, 3.0]}))
    assert page.cards()["Misclassified"] == ["good/001.png"]
    assert "Dashed: model threshold 2.000" in page.words
    _, page = write(tmp_path, replace(make_category(tmp_path, "nut", SCORES), threshold=None))
    assert "model threshold 2" not in page.words
    empty = CategoryResult("none", dict.fromkeys(METRICS), ImageMetrics(), PixelMetrics())
    text, page = write(tmp_path, empty)
    assert "No threshold" in page.words
    assert "<svg" not in text


def test_missing_image_file_is_named(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", SCORES)
    category.images[6].path.unlink()
    _, page = write(tmp_path, category)
    assert "Image hole/002.png: file no longer readable" in page.words


def test_equal_scores_and_special_characters(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nüt & <bolt>", {"good": [1.0, 1.0], "hole": [1.0]})
    text, page = write(tmp_path, category)
    assert "nüt & <bolt>" in page.text
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", text), re.IGNORECASE)
