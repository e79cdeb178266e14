"""`patchcore recipes`: what is shown of a recipe is that recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import patchcore_plugin as pp
from tests.commands import done, failure, loaded


def test_recipes_list() -> None:
    names = pp.Recipe.names()
    assert [each["name"] for each in loaded("recipes", "list")] == names
    table = done("recipes", "list").out
    for name in names:
        assert re.search(rf"^{name} +{re.escape(pp.Recipe.load(name).summary)} *$", table, re.MULTILINE)


@pytest.mark.parametrize("name", pp.Recipe.names())
def test_what_is_shown_of_a_recipe_is_that_recipe(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.toml"
    file.write_text(done("recipes", "show", name).out, encoding="utf-8")
    shipped, again = (pp.Recipe.load(each).resolved(pp.Host(), seed=0) for each in (name, str(file)))
    assert {**again.to_dict(), "summary": ""} == {**shipped.to_dict(), "summary": ""}
    assert loaded("recipes", "show", name) == json.loads(json.dumps(shipped.to_dict()))


def test_recipes_show_says_that_a_border_is_not_inspected() -> None:
    warning = (
        "# Only the central 224 x 224 pixels of the resized image are inspected: "
        "a defect in the border outside is NOT found.\n"
    )
    summary = pp.Recipe.load("patchcore-paper").summary
    assert "border" in summary
    assert "NOT inspected" in summary
    shown = done("recipes", "show", "patchcore-paper").out
    assert shown.startswith(f"# patchcore-paper: {summary}\n{warning}")
    assert "\n[aggregator]\n" in shown
    assert "\nembed_dim = 1024\n" in shown
    whole = done("recipes", "show", "patchcore").out
    assert "NOT" not in whole
    assert "\n# crop is not set\n" in whole
    assert "\n# embed_dim is not set\n" in whole


def test_what_is_shown_can_be_read_again_whatever_the_summary(tmp_path: Path) -> None:
    own, again = tmp_path / "own.toml", tmp_path / "again.toml"
    shown = done("recipes", "show", "patchcore").out
    layers = r"""["a\\b", "c\"d", "\u0001\n"]"""
    shown = re.sub(r"^layers = .*$", lambda _: f"layers = {layers}", shown, flags=re.MULTILINE)
    own.write_text(f'summary = "two\\nlines"\n{shown}', encoding="utf-8")
    again.write_text(done("recipes", "show", own).out, encoding="utf-8")
    assert again.read_text(encoding="utf-8").startswith("# own: two lines\n\n[preprocessing]\n")
    options = pp.Recipe.load(str(again)).backbone.options
    assert options["layers"] == ["a\\b", 'c"d', "\x01\n"]


def test_recipes_show_of_an_unknown_recipe() -> None:
    assert failure("recipes", "show", "patchcor").startswith("unknown recipe 'patchcor'; did you mean 'patchcore'? ")
