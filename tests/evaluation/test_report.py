"""The report: what it says, that it needs nothing else, and that it stays bounded."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchcore_plugin.evaluation.metrics import image_metrics, pixel_metrics
from patchcore_plugin.evaluation.report.page import GALLERY, THUMBNAIL, write_report
from patchcore_plugin.evaluation.results import METRICS, CategoryResult, Evaluation, Failure
from tests.evaluation.report_pages import MODEL, SCORES, Page, charts_of, make_category, make_image


def report(folder: Path, *categories: CategoryResult, recipe: Mapping[str, object] | None = None) -> tuple[str, Page]:
    path = folder / "report.html"
    write_report(Evaluation(categories, recipe or {}), path)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_it_needs_nothing_else(tmp_path: Path) -> None:
    text, page = report(tmp_path, make_category(tmp_path, "nut", SCORES))
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/"))
    assert "url(" not in text
    assert "@import" not in text
    assert "http:" not in text
    assert "https:" not in text
    policy = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_pictures_are_small_and_have_words(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", SCORES)
    make_image(category.images[0].path, (1500, 900))
    _, page = report(tmp_path, category)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    sides = set()
    for attributes in pictures:
        assert attributes["alt"]
        data = np.frombuffer(base64.b64decode(attributes["src"].split(",")[1]), dtype=np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert picture is not None
        sides.add(picture.shape[:2])
    assert sides == {(THUMBNAIL, 192), (40, 60), (30, 70), (12, 256)}
    assert [a["alt"] for a in pictures if "hole/002.png" in a["alt"]][:2] == [
        "Image hole/002.png",
        "Heat over hole/002.png",
    ]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {a["href"] for tag, a in page.tags if tag == "a"} <= {f"#{name}" for name in ids}


def test_galleries(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", SCORES)
    _, page = report(tmp_path, category)
    cards = page.cards()
    assert cards["Worst"] == ["hole/002.png", "good/003.png"]
    # 1.2, and then 1.1 and 2.9, beside the model's own threshold of 2.
    assert cards["Most doubtful"][0] == "good/001.png"
    assert set(cards["Most doubtful"][1:3]) == {"hole/001.png", "good/002.png"}
    assert cards["Best"] == [
        "hole/000.png", "hole/003.png", "hole/001.png", "good/000.png", "good/002.png", "good/001.png"
    ]  # fmt: skip
    text = page.words
    assert "missed" in text
    assert "007.png" in text
    assert "/far/away" not in text


def test_galleries_are_bounded(tmp_path: Path) -> None:
    many = {"good": [float(k) for k in range(20)], "hole": [float(k) + 0.5 for k in range(20)]}
    _, page = report(tmp_path, make_category(tmp_path, "nut", many))
    assert {name: len(names) for name, names in page.cards().items()} == dict.fromkeys(
        ("Worst", "Most doubtful", "Best"), GALLERY
    )


@pytest.mark.parametrize(("good", "expected"), [(9, 3), (1, 1), (0, 0)])
def test_best_images_are_of_both_kinds(tmp_path: Path, good: int, expected: int) -> None:
    scores = {"good": [0.1 * k for k in range(good)], "hole": [10.0 * k for k in range(2, 12)]}
    _, page = report(tmp_path, make_category(tmp_path, "nut", scores))
    best = page.cards()["Best"]
    assert [name.split("/")[0] for name in best] == ["hole"] * (GALLERY - expected) + ["good"] * expected


def test_a_card_has_score_p_value_and_verdict_together(tmp_path: Path) -> None:
    _, page = report(tmp_path, make_category(tmp_path, "nut", SCORES))
    text = page.words
    assert (
        "good/003.png Truth good Score 3.500 , threshold 2.000 p-value 0.08333 Verdict false alarm "
        "Regions 3, 3% of the image Nearest 007.png"
    ) in text
    assert (
        "hole/000.png Truth hole Score 5.000 , threshold 2.000 p-value 0.08333 Verdict found defective Regions none"
    ) in text
    cards = text.count(" Truth ")
    assert cards == text.count(", threshold 2.000 p-value ") == text.count(" Verdict ") == 14
    why = [a["alt"] for tag, a in page.tags if tag == "img" and "patch" in a["alt"]]
    assert "The most suspicious patch of good/003.png beside the nearest normal one" in why
    assert not [alt for alt in why if "good/001.png" in alt]


def test_verdicts_at_both_thresholds_and_by_kind(tmp_path: Path) -> None:
    # F1 is best between 1.2 and 2.02.
    category = make_category(tmp_path, "nut", {**SCORES, "cut": [2.2, 2.02]})
    text, page = report(tmp_path, replace(category, threshold=2.5))
    words = page.words
    assert (
        "At the threshold of the model, 2.500 at most 8.33% false alarms; eleven images passed called defective "
        "good 3 1 defective 3 3 At the threshold with the best F1, 1.610 chosen knowing the answers, which no line in "
        "use does passed called defective good 3 1 defective 1 5 "
        "Kind Images Above 2.500 Above 1.610 Regions an image Their area good 4 1 (25%) 1 (25%) 1.5 1.5% "
        "hole 4 3 (75%) 3 (75%) 1.5 1.5% cut 2 0 (0%) 2 (100%) 0.5 0.5% "
    ) in words
    assert text.count('<td class="wrong">') == 4


def test_on_the_threshold_is_not_above_it(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", {"good": [1.0, 2.0, 2.1], "hole": [2.0, 3.0]})
    verdicts = category.verdicts
    assert verdicts is not None
    assert (verdicts.good, verdicts.kinds) == ((1, 3), {"hole": (1, 2)})
    assert (verdicts.false_alarm_rate, verdicts.detection_rate) == (1 / 3, 0.5)


def test_the_model_card_says_what_it_was_made_of_and_its_limits(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", {**SCORES, "cut": [0.1, 0.2]})
    _, page = report(tmp_path, category)
    words = page.words.partition("Model card ")[2]
    assert words.startswith(
        "Category nut Fitted on 11 good images of nut/train/good Tested on 4 good, 4 hole, 2 cut "
        "Backbone my-backbone (mine 1.2) Aggregator my-aggregator (mine 1.2) Sampler my-sampler (mine 1.2) "
        "Scorer my-scorer (mine 1.2) SHA-256 of the backbone abc123 "
        "Memory bank 1,234 of 12,340 patches, covering radius 3.142 Seed 7 Precision fp32 Versions python 3.11 "
        "Threshold 2.000 Calibrated by at most 8.33% false alarms; eleven images "
        "Regions where the map is above 3.000 "
        "Limits Its 11 judged good images can promise no false-alarm rate below 8.33%, and promise it for images taken "
        "as these were. So few test images tell rates roughly; 95% intervals: false alarms 1 of 4, 0.631% to 80.6%; "
        "defects found 3 of 6, 11.8% to 88.2%. It found none of: cut."
    )
    ensemble = {"images": 11, "folders": ["x"], "seed": 1, "members": [MODEL, {**MODEL, "bank_rows": 0}]}
    _, page = report(tmp_path, replace(category, model=ensemble))
    words = page.words
    assert "0. Backbone my-backbone (mine 1.2)" in words
    assert "1. Memory bank 12,340 patches, none kept" in words


def test_figures_mean_recipe_and_failures(tmp_path: Path) -> None:
    nut = make_category(tmp_path, "nut", {"good": [1.0, 2.0], "hole": [3.0, 4.0]})
    bolt = make_category(tmp_path, "bolt", {"good": [1.0, 3.0], "hole": [2.0, 4.0]})
    failed = [Failure("a/<b>.png", "a/<b>.png: not a picture & never was")]
    nut = CategoryResult(**{**vars(nut), "failed": failed})
    recipe = {"name": "patchcore", "sampler": {"name": "greedy-coreset", "ratio": 0.1}, "layers": [2, 3]}
    text, page = report(tmp_path, nut, bolt, recipe=recipe)
    words = page.words
    assert "nut 1.000 n/a n/a" in words
    assert "bolt 0.750 n/a n/a" in words
    assert "Mean 0.875 n/a n/a" in words
    assert "12.3 s 45 ms 12,345 3.142" in words
    assert "sampler.ratio 0.1" in words
    assert "layers 2, 3" in words
    assert "a/<b>.png: not a picture & never was" in words
    assert "<b>" not in text
    assert "1 could not be used" in words
    assert words.count("1.500") >= 2  # the scale's lower end, at the bar and in its explanation


def test_charts_show_the_curves(tmp_path: Path) -> None:
    text, _ = report(tmp_path, make_category(tmp_path, "nut", SCORES))
    charts = charts_of(text)
    assert len(charts) == 5
    roc, pro, histogram, calibration, promise = charts
    for chart, expected in ((roc, 2), (pro, 1)):
        lines = chart.findall("polyline")
        assert len(lines) == expected
        for line in lines:
            points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
            # From the lower left corner to the right edge, never turning back or down.
            assert points[0] == (42.0, 204.0)
            assert points[-1][0] == 312.0
            assert all(a[0] <= b[0] and a[1] >= b[1] for a, b in itertools.pairwise(points))
    middle = 106.0
    bars = [bar.attrib for bar in histogram.findall("rect")]
    above = sum(float(bar["height"]) for bar in bars if bar["class"] == "bar a")
    below = sum(float(bar["height"]) for bar in bars if bar["class"] == "bar b")
    assert above == pytest.approx(below, abs=0.5)
    assert all(float(bar["y"]) >= middle for bar in bars if bar["class"] == "bar b")
    # Eleven images of the calibration above, four of the test below.
    unit = (98 - 12) / max(np.histogram([1 + k / 10 for k in range(11)], bins=24, range=(1, 3.5))[0])
    heights = {"bar a": 0.0, "bar b": 0.0}
    for bar in calibration.findall("rect"):
        heights[bar.attrib["class"]] += float(bar.attrib["height"])
    assert heights == pytest.approx({"bar a": 11 * unit, "bar b": 4 * unit}, abs=0.5)
    (line,) = promise.findall("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    # p-values of 3.5, 1.2, 1.1 and 1: the shares of 1/12, 10/12, 11/12 and 1.
    jumps = [x for (x, a), (_, b) in itertools.pairwise(points) if a != b]
    assert jumps == pytest.approx([42 + 270 * p / 12 for p in (1, 10, 11, 12)], abs=0.06)
    assert (points[0], points[-1]) == ((42.0, 204.0), (312.0, 8.0))


def test_without_maps_without_classes_without_images(tmp_path: Path) -> None:
    _, page = report(tmp_path, make_category(tmp_path, "nut", SCORES, overlays=False))
    assert not [1 for tag, a in page.tags if a.get("alt", "").startswith(("Heat", "Colour"))]
    assert "Overlap per defect region" not in page.text
    # One class only: the model's own threshold serves.
    _, page = report(tmp_path, make_category(tmp_path, "bolt", {"good": [1.0, 3.0]}))
    assert page.cards()["Worst"] == ["good/001.png"]
    assert "own threshold" in " ".join(page.text)
    assert "Regions an image" in " ".join(page.text)
    empty = CategoryResult("none", dict.fromkeys(METRICS), image_metrics([], []), pixel_metrics([], []))
    text, page = report(tmp_path, empty)
    assert "Without a threshold" in " ".join(page.text)
    assert "<svg" not in text


def test_a_image_that_is_gone_is_named(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", SCORES)
    category.images[6].path.unlink()
    _, page = report(tmp_path, category)
    assert any("Image hole/002.png: cannot be read any more" in text for text in page.text)


def test_equal_scores_and_odd_names(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nüt & <bolt>", {"good": [1.0, 1.0], "hole": [1.0]})
    text, page = report(tmp_path, category)
    assert "nüt & <bolt>" in page.text
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", text), re.IGNORECASE)


def test_a_method_without_maps_is_said_to_have_none(tmp_path: Path) -> None:
    _, page = report(tmp_path, make_category(tmp_path, "nut", SCORES, overlays=False))
    words = page.words
    assert "nut 0.688 n/a n/a no map no map n/a n/a 12.3 s" in words
    assert "This method judges whole images and gives no anomaly maps" in words
    with_maps, _ = report(tmp_path, make_category(tmp_path, "nut", SCORES))
    assert "no map" not in with_maps
