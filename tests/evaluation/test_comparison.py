"""Comparison of recipes: measuring, reuse of finished results, and failures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from patchcore_plugin.data.datasets import Category
from patchcore_plugin.errors import OptionError
from patchcore_plugin.evaluation.cache import RECORD
from patchcore_plugin.evaluation.comparison import Candidate, Comparison, compare
from patchcore_plugin.evaluation.results import COMPARISON_METRICS
from tests.evaluation.fake_results import FakeMeasure, make_candidates, make_category


@pytest.fixture
def categories(tmp_path: Path) -> list[Category]:
    return [make_category(tmp_path / "data", name) for name in ("nut", "bolt-m8")]


def test_every_pair_is_measured_once(categories: list[Category], tmp_path: Path) -> None:
    out, first, second = tmp_path / "out", FakeMeasure(), FakeMeasure()
    comparison = compare(categories, make_candidates(a=1, b=2), out, first)
    # A category is complete before the next one starts.
    assert first.calls == [("a", "nut"), ("b", "nut"), ("a", "bolt-m8"), ("b", "bolt-m8")]
    text = (out / "comparison.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(comparison.to_json()))
    recipe = json.loads(text)["recipes"]["a"]
    values = [metrics["aupro"] for metrics in recipe["categories"].values()]
    assert list(recipe["categories"]) == ["nut", "bolt-m8"]
    assert list(recipe["mean"]) == list(COMPARISON_METRICS)
    assert recipe["mean"]["aupro"] == pytest.approx(sum(values) / 2)
    assert recipe["mean"]["peak_memory_bytes"] is None
    notes: list[str] = []
    compare(categories, make_candidates(a=1, b=2), out, second, note=notes.append)
    assert second.calls == []
    assert len(notes) == 4
    assert notes[0].startswith("a, nut: reused")
    assert (out / "comparison.json").read_text(encoding="utf-8") == text
    compare(categories, make_candidates(a=1, b=2), out, second, fresh=True)
    assert second.calls == first.calls


def test_changes_are_measured_again(categories: list[Category], tmp_path: Path) -> None:
    out, notes = tmp_path / "out", list[str]()

    def calls(*candidates: Candidate) -> list[tuple[str, str]]:
        measure = FakeMeasure()
        notes.clear()
        compare(categories, candidates, out, measure, note=notes.append)
        return measure.calls

    a, b = make_candidates(a=1, b=2)
    assert len(calls(a, b)) == 4
    a = Candidate("a", {"gain": 3}, {"seed": 0})
    assert calls(a, b) == [("a", "nut"), ("a", "bolt-m8")]
    assert notes[0].endswith("changed: recipe")
    assert calls(a, Candidate("b", b.recipe, {"seed": 1, "threads": 2})) == [("b", "nut"), ("b", "bolt-m8")]
    assert notes[1].endswith("changed: seed, threads")
    image = categories[1].test[0].path
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    assert calls(a) == [("a", "bolt-m8")]
    assert notes[1].endswith("changed: images")


def test_failure_does_not_stop_other_recipes_and_is_tried_again(categories: list[Category], tmp_path: Path) -> None:
    out, measure = tmp_path / "out", FakeMeasure(fails=("a",))
    absent = Candidate("c", reason="unknown scorer 'x'")
    comparison = compare(categories, [*make_candidates(a=1, b=2), absent], out, measure)
    assert len(measure.calls) == 4
    assert comparison.reasons == ["recipe a: there is not enough memory", "recipe c: unknown scorer 'x'"]
    recipes = json.loads((out / "comparison.json").read_text(encoding="utf-8"))["recipes"]
    assert recipes["a"]["failed"] == dict.fromkeys(("nut", "bolt-m8"), "there is not enough memory")
    assert recipes["a"]["categories"] == recipes["c"]["categories"] == {}
    assert recipes["a"]["mean"]["aupro"] is None
    assert len(recipes["b"]["categories"]) == 2
    second = FakeMeasure()
    assert compare(categories, make_candidates(a=1, b=2), out, second).reasons == []
    assert second.calls == [("a", "nut"), ("a", "bolt-m8")]


def test_interrupted_run_is_resumed(categories: list[Category], tmp_path: Path) -> None:
    complete = compare(categories, make_candidates(a=1, b=2), tmp_path / "complete", FakeMeasure())
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compare(categories, make_candidates(a=1, b=2), out, FakeMeasure(interrupted_at=("a", "bolt-m8")))
    assert list(json.loads((out / "comparison.json").read_text())["recipes"]["b"]["categories"]) == ["nut"]
    rest = FakeMeasure()
    resumed = compare(categories, make_candidates(a=1, b=2), out, rest)
    assert rest.calls == [("a", "bolt-m8"), ("b", "bolt-m8")]
    assert resumed.to_json() == complete.to_json()
    # The record is deleted before its pair is measured again.
    with pytest.raises(KeyboardInterrupt):
        compare(categories, make_candidates(a=1), out, FakeMeasure(interrupted_at=("a", "nut")), fresh=True)
    assert not (out / "a" / "nut" / RECORD).exists()


def test_unusable_image_is_listed_once(categories: list[Category], tmp_path: Path) -> None:
    candidates = [Candidate(name, {"gain": 1, "unreadable": True}) for name in "ab"]
    comparison = compare(categories[:1], candidates, tmp_path / "out", FakeMeasure())
    assert comparison.unusable == ["a.png: broken"]
    assert [failure["path"] for failure in comparison.to_json()["recipes"]["b"]["unusable"]] == ["a.png"]


def test_names_must_be_unique(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"'a b' and 'A_b'"):
        compare([], make_candidates(**{"a b": 1, "A_b": 2}), tmp_path, FakeMeasure())
    with pytest.raises(OptionError, match=r"named 'a'"):
        compare([], make_candidates(a=1) * 2, tmp_path, FakeMeasure())
    assert list(tmp_path.iterdir()) == []
    assert Candidate("../up").folder == "_up"


def test_empty_comparison() -> None:
    assert Comparison([], []).to_json() == {"categories": [], "setup": {}, "recipes": {}, "published": []}
