"""The model card: properties of the model and limitations of its results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from patchcore_plugin.evaluation.report.model_card import limitations, model_card
from patchcore_plugin.evaluation.results import CategoryResult
from tests.evaluation.report.pages import MODEL, SCORES, make_category


@pytest.fixture
def category(tmp_path: Path) -> CategoryResult:
    return make_category(tmp_path, "nut", {**SCORES, "cut": [0.1, 0.2]})


def test_card_lists_data_components_and_settings(category: CategoryResult) -> None:
    card = dict(model_card(category))
    assert card["Training images"] == "11 good images from nut/train/good"
    assert card["Test images"] == "4 good, 4 hole, 2 cut"
    assert card["Scorer"] == "my-scorer (mine 1.2)"
    assert card["Memory bank"] == "1,234 of 12,340 patches, covering radius 3.142"
    assert card["Software"] == "python 3.11"
    assert (card["Seed"], card["Threshold"], card["Map threshold"]) == ("7", "2.000", "3.000")
    assert "8.33%" in card["Calibration"]
    assert "eleven images" in card["Calibration"]


def test_card_of_an_ensemble_lists_each_member(category: CategoryResult) -> None:
    model = {"images": 11, "folders": ["x"], "seed": 1, "members": [MODEL, {**MODEL, "bank_rows": 0}]}
    card = dict(model_card(replace(category, model=model)))
    assert card["0. Backbone"] == "my-backbone (mine 1.2)"
    assert card["1. Memory bank"].startswith("none")


def test_unknown_properties_are_omitted(category: CategoryResult) -> None:
    card = model_card(replace(category, model={}, calibration=None, threshold=None))
    assert [label for label, _ in card] == ["Category", "Test images"]


def test_limitations_state_lowest_rate_intervals_and_missed_kinds(category: CategoryResult) -> None:
    guarantee, intervals, missed = limitations(category)
    assert "11 calibration images" in guarantee
    assert "8.33%" in guarantee
    assert "1 of 4 (0.631% to 80.6%)" in intervals
    assert "3 of 6 (11.8% to 88.2%)" in intervals
    assert missed.endswith("cut.")
    assert limitations(replace(category, calibration=None, threshold=None)) == []
