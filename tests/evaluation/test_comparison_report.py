"""The page of a comparison: recipes side by side, in figures and in curves that can be told apart."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

from patchcore_plugin.evaluation.compare import Comparison, Contender, Entry
from patchcore_plugin.evaluation.published import published_figures
from patchcore_plugin.evaluation.report import charts as plots
from patchcore_plugin.evaluation.report.comparison import write_comparison
from patchcore_plugin.evaluation.results import CategoryResult
from tests.evaluation.report_pages import SCORES, Page, charts_of, make_category


def entry(name: str, *results: CategoryResult, **reasons: str) -> Entry:
    return Entry(Contender(name, {"summary": "x"}), {each.name: each for each in results}, reasons)


def comparison(folder: Path, *entries: Entry, published: bool = False, total: int = 2) -> tuple[str, Page]:
    path = folder / "comparison.html"
    others = published_figures() if published else []
    write_comparison(Comparison(["nut", "bolt"][:total], entries, {"seed": 0}, others), path)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def named_charts(text: str) -> dict[str, ElementTree.Element]:
    return {chart.attrib["aria-label"].split(":")[0]: chart for chart in charts_of(text)}


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
    words = page.words
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

    charts = named_charts(text)
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
    speed = charts["Seconds per image against AUPRO"]
    assert [path.attrib["class"] for path in speed.findall("path")] == ["mark s0 d0", "mark s1 d1"]
    assert "without figures for it: blind, absent" in words


def test_a_comparison_on_one_category(tmp_path: Path) -> None:
    nut = make_category(tmp_path, "nut", SCORES)
    gpu = replace(nut, metrics={**nut.metrics, "peak_memory_bytes": 3 << 29, "peak_gpu_memory_bytes": 5 << 20})
    text, page = comparison(tmp_path, entry("a", nut), entry("b", gpu), total=1)
    words = page.words
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
    roc = named_charts(text)["ROC of nut, Image AUROC"]
    drawn = [line.attrib["class"].split() for line in roc.findall("polyline")]
    assert [dashes for *_, dashes in drawn] == ["d0", "d0", "d1", "d1", "d2", "d3", "d4"]
    assert {hue for _, _, hue, _ in drawn} == {f"s{k}" for k in range(7)}


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
