"""The report of a comparison: tables, reasons of failures, and distinguishable curves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from patchcore_plugin.evaluation.comparison import Candidate, Comparison, Entry
from patchcore_plugin.evaluation.published_results import load_published_results
from patchcore_plugin.evaluation.report import charts
from patchcore_plugin.evaluation.report.comparison import write_comparison
from patchcore_plugin.evaluation.results import CategoryResult
from tests.evaluation.report.pages import SCORES, Page, charts_of, make_category


def make_entry(name: str, *results: CategoryResult, **reasons: str) -> Entry:
    return Entry(Candidate(name, {"summary": "x"}), {result.name: result for result in results}, reasons)


def write(folder: Path, *entries: Entry, published: bool = False, total: int = 2) -> tuple[str, Page]:
    path = folder / "comparison.html"
    results = load_published_results() if published else []
    write_comparison(Comparison(["nut", "bolt"][:total], entries, {"seed": 0}, results), path)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_recipes_side_by_side(tmp_path: Path) -> None:
    nut, bolt = (make_category(tmp_path, name, SCORES) for name in ("nut", "bolt"))
    fast = replace(nut, metrics={**nut.metrics, "predict_seconds_per_image": 0.002, "aupro": 0.5})
    blind = make_category(tmp_path, "nut", {"good": [1.0, 2.0], "hole": [1.5, 3.0]}, overlays=False)
    text, page = write(
        tmp_path,
        make_entry("a <1>", nut, bolt),
        make_entry("b", fast, bolt="there is <no> memory"),
        make_entry("blind", blind, replace(blind, name="bolt")),
        make_entry("absent", nut="not installed", bolt="not installed"),
        published=True,
    )
    for fact in (
        "a <1> 0.688 n/a n/a 1.000 1.000 n/a 45 ms n/a 12,345",
        "b 1 of 2 categories 0.688 n/a n/a 1.000 0.500",
        "blind 0.750 n/a n/a no map no map n/a 45 ms",
        "absent failed: not installed",
        "recipe b, bolt: there is <no> memory",
        "recipe absent: not installed",
        "not comparable",
        "no anomaly maps: blind.",
        "PaDiM arXiv 2011.08785 0.953 0.975 0.921",
        "15 categories of MVTec AD",
        "missing: blind, absent",
    ):
        assert fact in page.words
    assert "Peak GPU" not in page.words
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links[:3] == ["a_1_/report.html", "b/report.html", "blind/report.html"]
    assert not [1 for tag, _ in page.tags if tag in {"script", "link", "iframe", "img"}]
    assert "<no>" not in text


def test_charts_show_the_recipes_that_have_the_curve(tmp_path: Path) -> None:
    nut, bolt = (make_category(tmp_path, name, SCORES) for name in ("nut", "bolt"))
    blind = make_category(tmp_path, "nut", SCORES, overlays=False)
    text, _ = write(
        tmp_path, make_entry("a", nut, bolt), make_entry("b", nut, bolt="failed"), make_entry("blind", blind)
    )
    curves = {
        label.split(",")[0]: [line.attrib["class"] for line in chart.findall("polyline")]
        for label, chart in charts_of(text).items()
    }
    assert curves["Image ROC of nut"] == [f"curve hue s{k} d{k}" for k in (0, 1, 2)]
    assert curves["Image ROC of bolt"] == ["curve hue s0 d0"]
    assert len(curves["Image precision and recall of nut"]) == 3
    assert len(curves["Pixel ROC of nut"]) == len(curves["Per-region overlap (PRO) of nut"]) == 2
    assert len([label for label in curves if label.startswith("Histogram")]) == 4
    speed = charts_of(text)["AUPRO against prediction time"]
    assert [path.attrib["class"] for path in speed.findall("path")] == ["mark s0 d0", "mark s1 d1"]


def test_one_category_needs_one_table(tmp_path: Path) -> None:
    nut = make_category(tmp_path, "nut", SCORES)
    gpu = replace(nut, metrics={**nut.metrics, "peak_memory_bytes": 3 << 29, "peak_gpu_memory_bytes": 5 << 20})
    _, page = write(tmp_path, make_entry("a", nut), make_entry("b", gpu), total=1)
    assert page.words.count("12,345") == 2
    assert "1,536 MiB 5 MiB 12,345" in page.words
    for phrase in ("ublished", "comparable", "Mean over"):
        assert phrase not in page.words
    text, _ = write(tmp_path, make_entry("absent", nut="not installed"), total=1)
    assert "<svg" not in text


def test_solid_curves_lie_below_dashed_ones(tmp_path: Path) -> None:
    nut = make_category(tmp_path, "nut", SCORES)
    text, _ = write(tmp_path, *(make_entry(str(k), nut) for k in range(7)), total=1)
    (roc,) = (chart for label, chart in charts_of(text).items() if label.startswith("Image ROC"))
    classes = [line.attrib["class"].split() for line in roc.findall("polyline")]
    assert [dashes for *_, dashes in classes] == ["d0", "d0", "d1", "d1", "d2", "d3", "d4"]
    assert {hue for _, _, hue, _ in classes} == {f"s{k}" for k in range(7)}


def test_colours_have_the_contrast_that_wcag_2_requires(tmp_path: Path) -> None:
    text, _ = write(tmp_path, make_entry("a", make_category(tmp_path, "nut", SCORES)), total=1)
    themes = re.findall(r"--page: (#\w+);.*?((?:--s\d: #\w+; ?)+)", text, re.DOTALL)
    assert len(themes) == 2

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for page, hues in themes:
        colours = re.findall(r"#\w+", hues)
        assert len(set(colours)) == charts.COLOURS
        for colour in colours:
            low, high = sorted((luminance(page), luminance(colour)))
            assert (high + 0.05) / (low + 0.05) >= 3, colour
