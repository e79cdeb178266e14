"""The report: what it says, that it needs nothing else, and that it stays bounded."""

from __future__ import annotations

import base64
import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from patchcore_plugin import plots
from patchcore_plugin.calibration import Calibration, GoodPhoto
from patchcore_plugin.comparison import Comparison, Contender, Entry
from patchcore_plugin.comparison_report import write_comparison
from patchcore_plugin.metrics import image_metrics, pixel_metrics
from patchcore_plugin.published import published_figures
from patchcore_plugin.report import GALLERY, THUMBNAIL, write_report
from patchcore_plugin.results import METRICS, CategoryResult, Evaluation, Failure, PhotoResult
from patchcore_plugin.specs import ROLES

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags with attributes and checks that they nest."""

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

    def cards(self) -> dict[str, list[str]]:
        """Names of the photos by gallery."""
        found: dict[str, list[str]] = {}
        text = " ".join(" ".join(self.text).split())
        for part in re.split(r"\b(?=Worst |Most doubtful |Best )", text)[1:]:
            name = next(n for n in ("Worst", "Most doubtful", "Best") if part.startswith(n))
            found[name] = re.findall(r"\S+/\d+\.png", part.split("Could not be used")[0])
        return found


def make_photo(path: Path, size: tuple[int, int] = (40, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), 120, dtype=np.uint8))
    return path


CALIBRATION = Calibration.of_good([GoodPhoto(1 + k / 10, 0.0, 2 + k / 10) for k in range(11)], "eleven photos")
MODEL: dict[str, Any] = {
    "photos": 11,
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


def make_category(folder: Path, name: str, scores: dict[str, list[float]], overlays: bool = True) -> CategoryResult:
    photos = []
    for kind, values in scores.items():
        for number, score in enumerate(values):
            path = make_photo(folder / name / kind / f"{number:03}.png")
            overlay = make_photo(folder / "out" / f"{name}_{kind}_{number:03}.png") if overlays else None
            photos.append(
                PhotoResult(
                    path,
                    kind,
                    kind != "good",
                    score,
                    overlay,
                    "/far/away/train/007.png",
                    p_value=CALIBRATION.p_value(score),
                    regions=number if overlays else None,
                    area=0.01 * number if overlays else None,
                    why=make_photo(folder / "why" / f"{name}_{kind}_{number}.png", (30, 70)) if score > 2 else None,
                )
            )
    image = image_metrics([photo.is_anomalous for photo in photos], [photo.score for photo in photos])
    rng = np.random.default_rng(0)
    mask = np.zeros((30, 30), dtype=bool)
    mask[5:12, 5:12] = True
    pixel = pixel_metrics([mask], [rng.random((30, 30)) + mask]) if overlays else pixel_metrics([], [])
    figures: dict[str, float | None] = dict.fromkeys(METRICS)
    figures |= {
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
        figures,
        image.thinned(),
        pixel.thinned(),
        photos,
        threshold=2.0,
        scale=(1.5, 4.0) if overlays else None,
        calibration=CALIBRATION,
        model=MODEL,
    )


def report(folder: Path, *categories: CategoryResult, recipe: Mapping[str, object] | None = None) -> tuple[str, Page]:
    path = folder / "report.html"
    write_report(Evaluation(categories, recipe or {}), path)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


SCORES = {"good": [1.0, 1.2, 1.1, 3.5], "hole": [5.0, 2.9, 0.5, 4.0]}


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
    make_photo(category.photos[0].path, (1500, 900))
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
        "Photo hole/002.png",
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
    text = " ".join(" ".join(page.text).split())
    assert "missed" in text
    assert "007.png" in text
    assert "/far/away" not in text


def test_a_card_has_score_p_value_and_verdict_together(tmp_path: Path) -> None:
    _, page = report(tmp_path, make_category(tmp_path, "nut", SCORES))
    text = " ".join(" ".join(page.text).split())
    assert (
        "good/003.png Truth good Score 3.500 , threshold 2.000 p-value 0.08333 Verdict false alarm "
        "Regions 3, 3% of the photo Nearest 007.png"
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
    words = " ".join(" ".join(page.text).split())
    assert (
        "At the threshold of the model, 2.500 at most 8.33% false alarms; eleven photos passed called defective "
        "good 3 1 defective 3 3 At the threshold with the best F1, 1.610 chosen knowing the answers, which no line in "
        "use does passed called defective good 3 1 defective 1 5 "
        "Kind Photos Above 2.500 Above 1.610 Regions a photo Their area good 4 1 (25%) 1 (25%) 1.5 1.5% "
        "hole 4 3 (75%) 3 (75%) 1.5 1.5% cut 2 0 (0%) 2 (100%) 0.5 0.5% "
    ) in words
    assert text.count('<td class="wrong">') == 4


def test_the_model_card_says_what_it_was_made_of_and_its_limits(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", {**SCORES, "cut": [0.1, 0.2]})
    _, page = report(tmp_path, category)
    words = " ".join(" ".join(page.text).split()).partition("Model card ")[2]
    assert words.startswith(
        "Category nut Fitted on 11 good photos of nut/train/good Tested on 4 good, 4 hole, 2 cut "
        "Backbone my-backbone (mine 1.2) Aggregator my-aggregator (mine 1.2) Sampler my-sampler (mine 1.2) "
        "Scorer my-scorer (mine 1.2) SHA-256 of the backbone abc123 "
        "Memory bank 1,234 of 12,340 patches, covering radius 3.142 Seed 7 Precision fp32 Versions python 3.11 "
        "Threshold 2.000 Calibrated by at most 8.33% false alarms; eleven photos "
        "Regions where the map is above 3.000 "
        "Limits Its 11 judged good photos can promise no false-alarm rate below 8.33%, and promise it for photos taken "
        "as these were. So few test photos tell rates roughly; 95% intervals: false alarms 1 of 4, 0.631% to 80.6%; "
        "defects found 3 of 6, 11.8% to 88.2%. It found none of: cut."
    )
    ensemble = {"photos": 11, "folders": ["x"], "seed": 1, "members": [MODEL, {**MODEL, "bank_rows": 0}]}
    _, page = report(tmp_path, replace(category, model=ensemble))
    words = " ".join(" ".join(page.text).split())
    assert "0. Backbone my-backbone (mine 1.2)" in words
    assert "1. Memory bank 12,340 patches, none kept" in words


def test_galleries_are_bounded(tmp_path: Path) -> None:
    many = {"good": [float(k) for k in range(20)], "hole": [float(k) + 0.5 for k in range(20)]}
    _, page = report(tmp_path, make_category(tmp_path, "nut", many))
    assert {name: len(names) for name, names in page.cards().items()} == dict.fromkeys(
        ("Worst", "Most doubtful", "Best"), GALLERY
    )


@pytest.mark.parametrize(("good", "expected"), [(9, 3), (1, 1), (0, 0)])
def test_best_photos_are_of_both_kinds(tmp_path: Path, good: int, expected: int) -> None:
    scores = {"good": [0.1 * k for k in range(good)], "hole": [10.0 * k for k in range(2, 12)]}
    _, page = report(tmp_path, make_category(tmp_path, "nut", scores))
    best = page.cards()["Best"]
    assert [name.split("/")[0] for name in best] == ["hole"] * (GALLERY - expected) + ["good"] * expected


def test_figures_mean_recipe_and_failures(tmp_path: Path) -> None:
    nut = make_category(tmp_path, "nut", {"good": [1.0, 2.0], "hole": [3.0, 4.0]})
    bolt = make_category(tmp_path, "bolt", {"good": [1.0, 3.0], "hole": [2.0, 4.0]})
    failed = [Failure("a/<b>.png", "a/<b>.png: not a picture & never was")]
    nut = CategoryResult(**{**vars(nut), "failed": failed})
    recipe = {"name": "patchcore", "sampler": {"name": "greedy-coreset", "ratio": 0.1}, "layers": [2, 3]}
    text, page = report(tmp_path, nut, bolt, recipe=recipe)
    words = " ".join(" ".join(page.text).split())
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
    charts = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if "<text" in svg]
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
    # Eleven photos of the calibration above, four of the test below.
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


def test_without_maps_without_classes_without_photos(tmp_path: Path) -> None:
    _, page = report(tmp_path, make_category(tmp_path, "nut", SCORES, overlays=False))
    assert not [1 for tag, a in page.tags if a.get("alt", "").startswith(("Heat", "Colour"))]
    assert "Overlap per defect region" not in page.text
    # One class only: the model's own threshold serves.
    _, page = report(tmp_path, make_category(tmp_path, "bolt", {"good": [1.0, 3.0]}))
    assert page.cards()["Worst"] == ["good/001.png"]
    assert "own threshold" in " ".join(page.text)
    assert "Regions a photo" in " ".join(page.text)
    empty = CategoryResult("none", dict.fromkeys(METRICS), image_metrics([], []), pixel_metrics([], []))
    text, page = report(tmp_path, empty)
    assert "Without a threshold" in " ".join(page.text)
    assert "<svg" not in text


def test_a_photo_that_is_gone_is_named(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", SCORES)
    category.photos[6].path.unlink()
    _, page = report(tmp_path, category)
    assert any("Photo hole/002.png: cannot be read any more" in text for text in page.text)


def test_equal_scores_and_odd_names(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nüt & <bolt>", {"good": [1.0, 1.0], "hole": [1.0]})
    text, page = report(tmp_path, category)
    assert "nüt & <bolt>" in page.text
    assert "nan" not in text.split("</style>")[1].split("base64")[0].lower()


def test_a_method_without_maps_is_said_to_have_none(tmp_path: Path) -> None:
    _, page = report(tmp_path, make_category(tmp_path, "nut", SCORES, overlays=False))
    words = " ".join(" ".join(page.text).split())
    assert "nut 0.688 n/a n/a no map no map n/a n/a 12.3 s" in words
    assert "This method judges whole photos and gives no anomaly maps" in words
    with_maps, _ = report(tmp_path, make_category(tmp_path, "nut", SCORES))
    assert "no map" not in with_maps


# Comparisons


def entry(name: str, *results: CategoryResult, **reasons: str) -> Entry:
    return Entry(Contender(name, {"summary": "x"}), {each.name: each for each in results}, reasons)


def comparison(folder: Path, *entries: Entry, published: bool = False, total: int = 2) -> tuple[str, Page]:
    path = folder / "comparison.html"
    others = published_figures() if published else []
    write_comparison(Comparison(["nut", "bolt"][:total], entries, {"seed": 0}, others), path)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def charts_of(text: str) -> dict[str, ElementTree.Element]:
    drawn = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if "<text" in svg]
    return {svg.attrib["aria-label"].split(":")[0]: svg for svg in drawn}


def test_a_comparison_shows_recipes_side_by_side(tmp_path: Path) -> None:
    nut, bolt = (make_category(tmp_path, name, SCORES) for name in ("nut", "bolt"))
    fast = replace(nut, metrics={**nut.metrics, "predict_seconds_per_image": 0.002, "aupro": 0.5})
    blind = make_category(tmp_path, "nut", {"good": [1.0, 2.0], "hole": [1.5, 3.0]}, overlays=False)
    entries = [
        entry("a <1>", nut, bolt),
        entry("b", fast, bolt="there is <no> memory"),
        entry("blind", blind, replace(blind, name="bolt")),
        entry("absent", nut="not installed", bolt="not installed"),
    ]
    text, page = comparison(tmp_path, *entries, published=True)
    words = " ".join(" ".join(page.text).split())
    assert "Bank rows a <1> 0.688 n/a n/a 1.000 1.000 n/a 45 ms n/a 12,345 b 1 of 2 0.688 n/a n/a 1.000 0.500" in words
    assert "blind 0.750 n/a n/a no map no map n/a 45 ms" in words
    assert "absent failed: not installed" in words
    assert "b failed: there is <no> memory" in words
    assert "recipe b, bolt: there is <no> memory" in words
    assert "recipe absent: not installed" in words
    assert "such means do not compare" in words
    assert "have no figures by pixel: blind." in words
    assert "PaDiM arXiv 2011.08785 0.953 0.975 0.921" in words
    assert "means over the 15 categories of the full MVTec AD data set" in words
    assert "Peak GPU" not in words.split("Each recipe met")[0]
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links[:3] == ["a_1_/report.html", "b/report.html", "blind/report.html"]
    assert not [1 for tag, _ in page.tags if tag in {"script", "link", "iframe", "img"}]
    assert "<no>" not in text

    charts = charts_of(text)
    curves = {name: [line.attrib["class"] for line in svg.findall("polyline")] for name, svg in charts.items()}
    assert curves["ROC of nut, Image AUROC"] == [f"curve hue s{k} d{k}" for k in (0, 1, 2)]
    assert curves["ROC of bolt, Image AUROC"] == ["curve hue s0 d0", "curve hue s2 d2"]
    assert len(curves["Precision and recall of nut, Image AP"]) == 3
    assert len(curves["ROC of pixels of nut, Pixel AUROC"]) == 2
    assert len(curves["Overlap per defect region of nut, AUPRO to 0.3"]) == 2
    assert {name for name in charts if name.startswith("Histogram")} == {
        f"Histogram of the scores of {which}"
        for which in (
            *(f"{name}, from 0.5000 to 5.000" for name in ("a <1> on nut", "a <1> on bolt", "b on nut")),
            *(f"{name}, from 1.000 to 3.000" for name in ("blind on nut", "blind on bolt")),
        )
    }
    speed = charts["Seconds per photo against AUPRO"]
    assert [path.attrib["class"] for path in speed.findall("path")] == ["mark s0 d0", "mark s1 d1"]
    assert "without figures for it: blind, absent" in words


def test_a_comparison_on_one_category(tmp_path: Path) -> None:
    nut = make_category(tmp_path, "nut", SCORES)
    gpu = replace(nut, metrics={**nut.metrics, "peak_memory_bytes": 3 << 29, "peak_gpu_memory_bytes": 5 << 20})
    text, page = comparison(tmp_path, entry("a", nut), entry("b", gpu), total=1)
    words = " ".join(" ".join(page.text).split())
    assert words.count("12,345") == 2  # one table is enough
    assert "1,536 MiB 5 MiB 12,345" in words
    assert "published" not in words.lower()
    assert "such means do not compare" not in words
    assert "mean over the categories" not in words
    text, _ = comparison(tmp_path, entry("absent", nut="not installed"), total=1)
    assert "<svg" not in text


def test_solid_curves_lie_below_dashed_ones(tmp_path: Path) -> None:
    nut = make_category(tmp_path, "nut", SCORES)
    text, _ = comparison(tmp_path, *(entry(str(k), nut) for k in range(7)), total=1)
    roc = charts_of(text)["ROC of nut, Image AUROC"]
    drawn = [line.attrib["class"].split() for line in roc.findall("polyline")]
    assert [dashes for *_, dashes in drawn] == ["d0", "d0", "d1", "d1", "d2", "d3", "d4"]
    assert {hue for _, _, hue, _ in drawn} == {f"s{k}" for k in range(7)}


def test_nine_in_ten_lines_are_in_the_band() -> None:
    """At each promised rate, of test photos that are like those of the calibration."""
    rng = np.random.default_rng(0)
    judged, count = 19, 6
    chart = plots.calibration_chart([0.5] * count, judged)
    assert chart is not None
    box = plots.Box()
    corners = [tuple(map(float, point.split(","))) for point in chart["band"].split()]
    band: list[list[int]] = [[] for _ in range(judged + 2)]
    for x, y in corners:
        share = 1 - (y - box.top) / box.height
        band[round((x - box.left) / box.width * (judged + 1))].append(round(share * count))
    scores = rng.random((20_000, judged + count))
    ranks = np.sort(scores[:, :judged], axis=1)[:, ::-1]
    for place in range(1, judged + 1):
        above = (scores[:, judged:] > ranks[:, place - 1, None]).sum(axis=1)
        # After the jump at each place the outline is where it is until the next.
        low, high = (np.quantile(above, level, method="inverted_cdf") for level in (0.05, 0.95))
        assert {low, high} <= {*band[place]}, place
    assert plots.calibration_chart([], judged) is None
    assert plots.calibration_chart([0.5], 0) is None


def test_on_the_threshold_is_not_above_it(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", {"good": [1.0, 2.0, 2.1], "hole": [2.0, 3.0]})
    verdicts = category.verdicts
    assert verdicts is not None
    assert (verdicts.good, verdicts.kinds) == ((1, 3), {"hole": (1, 2)})
    assert (verdicts.false_alarm_rate, verdicts.detection_rate) == (1 / 3, 0.5)


def test_speed_chart() -> None:
    chart = plots.speed_chart({0: (0.01, 0.95), 2: (0.1, 0.9)})
    assert chart is not None
    box = plots.Box()
    (first, x0, y0), (second, x1, y1) = chart["marks"]
    assert (first, second) == (0, 2)
    # A range of 1.2 decades with the two a decade apart; heights from 0.8 (below the worst) to 1.
    assert x1 - x0 == pytest.approx(box.width / 1.2)
    assert (y0, y1) == pytest.approx((box.top + 0.25 * box.height, box.top + 0.5 * box.height))
    ticks = {label: x for x, label in chart["x"]}
    assert list(ticks) == ["10 ms", "20 ms", "50 ms", "100 ms"]
    assert ticks["10 ms"] == pytest.approx(x0)
    assert [label for _, label in chart["y"]] == ["0.8", "0.9", "1"]
    assert plots.speed_chart({}) is None
    alone = plots.speed_chart({0: (0.05, 1.0)})
    assert alone is not None
    assert [label for _, label in alone["x"]] == ["50 ms", "100 ms"]


def test_curves_differ_in_colour_and_dashes_and_can_be_seen(tmp_path: Path) -> None:
    assert len({plots.style(k) for k in range(40)}) == 40
    assert len({plots.pattern(k) for k in range(5)}) == 5
    text, _ = comparison(tmp_path, entry("a", make_category(tmp_path, "nut", SCORES)), total=1)
    themes = re.findall(r"--page: (#\w+);.*?((?:--s\d: #\w+; ?)+)", text, re.DOTALL)
    assert len(themes) == 2

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for page, hues in themes:
        colours = re.findall(r"#\w+", hues)
        assert len(set(colours)) == plots.STYLES
        for colour in colours:
            low, high = sorted((luminance(page), luminance(colour)))
            # What WCAG 2 asks of graphics.
            assert (high + 0.05) / (low + 0.05) >= 3, colour
