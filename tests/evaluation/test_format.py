"""Figures as text, and where pages and charts show them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from patchcore_plugin.evaluation.report import charts as plots
from patchcore_plugin.evaluation.report.format import MISSING, number, percent
from patchcore_plugin.evaluation.report.page import write_report
from patchcore_plugin.evaluation.results import Evaluation
from tests.evaluation.report_pages import SCORES, Page, make_category


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, MISSING),
        (0.0, "0%"),
        (1.0, "100%"),
        (0.875, "87.5%"),
        (1 / 31, "3.23%"),
        (2499 / 2500, "99.96%"),
        (0.99995, "99.99%"),
        (0.9999999, "99.99%"),
        (0.9994, "99.9%"),
        (1e-6, "0.0001%"),
    ],
)
def test_all_is_told_from_nearly_all(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, MISSING), (0, "0"), (52.88, "52.88"), (-2.5, "-2.500"), (1234.5, "1,234"), (1e-5, "1e-05"), (2e9, "2e+09")],
)
def test_numbers_of_any_size(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_report_shows_many_regions_and_the_threshold(tmp_path: Path) -> None:
    category = make_category(tmp_path, "nut", SCORES)
    images = [replace(image, regions=1234 if image.is_anomalous else 0) for image in category.images]
    write_report(Evaluation([replace(category, images=images)]), tmp_path / "report.html")
    words = Page((tmp_path / "report.html").read_text(encoding="utf-8")).words
    assert "good 4 1 (25%) 1 (25%) 0.0 1.5%" in words
    assert "hole 4 3 (75%) 3 (75%) 1,234.0 1.5%" in words
    assert words.count("s threshold, 2.000") == 2
    write_report(Evaluation([replace(category, threshold=None)]), tmp_path / "report.html")
    words = Page((tmp_path / "report.html").read_text(encoding="utf-8")).words
    assert "s threshold, " not in words


def test_ticks_have_room_over_many_decades() -> None:
    for slowest in (0.02, 0.1, 1.0, 10.0, 1000.0):
        chart = plots.speed_chart({0: (0.01, 0.9), 1: (slowest, 0.9)})
        assert chart is not None
        places = [x for x, _ in chart["x"]]
        assert len(places) >= 2
        assert all(right - left > 38 for left, right in itertools.pairwise(places)), slowest
