"""`patchcore recipes`: the listing, and TOML that loads as the same recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import patchcore_plugin as pp
from tests.commands import run_command, run_failing, run_json


def test_list() -> None:
    names = pp.Recipe.names()
    assert [recipe["name"] for recipe in run_json("recipes", "list")] == names
    table = run_command("recipes", "list").out
    for name in names:
        assert re.search(rf"^{name} +{re.escape(pp.Recipe.load(name).summary)} *$", table, re.MULTILINE)


@pytest.mark.parametrize("name", pp.Recipe.names())
def test_output_of_show_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.toml"
    file.write_text(run_command("recipes", "show", name).out, encoding="utf-8")
    shipped, copy = (pp.Recipe.load(source).resolve(pp.Host(), seed=0) for source in (name, str(file)))
    assert {**copy.to_dict(), "summary": ""} == {**shipped.to_dict(), "summary": ""}
    assert run_json("recipes", "show", name) == json.loads(json.dumps(shipped.to_dict()))


def test_show_warns_that_a_border_is_not_inspected() -> None:
    cropped = run_command("recipes", "show", "patchcore-paper").out
    summary, warning = cropped.splitlines()[:2]
    assert summary == f"# patchcore-paper: {pp.Recipe.load('patchcore-paper').summary}"
    assert "border" in summary
    assert "224 x 224" in warning
    assert "NOT" in warning
    assert "\n[aggregator]\n" in cropped
    assert "\nembed_dim = 1024\n" in cropped
    whole = run_command("recipes", "show", "patchcore").out
    assert "NOT" not in whole
    assert "\n# crop is not set\n" in whole
    assert "\n# embed_dim is not set\n" in whole


def test_output_of_show_loads_with_special_characters(tmp_path: Path) -> None:
    own, copy = tmp_path / "own.toml", tmp_path / "copy.toml"
    toml = run_command("recipes", "show", "patchcore").out
    layers = r"""["a\\b", "c\"d", "\u0001\n"]"""
    toml = re.sub(r"^layers = .*$", lambda _: f"layers = {layers}", toml, flags=re.MULTILINE)
    own.write_text(f'summary = "two\\nlines"\n{toml}', encoding="utf-8")
    copy.write_text(run_command("recipes", "show", own).out, encoding="utf-8")
    assert copy.read_text(encoding="utf-8").startswith("# own: two lines\n\n[preprocessing]\n")
    options = pp.Recipe.load(str(copy)).backbone.options
    assert options["layers"] == ["a\\b", 'c"d', "\x01\n"]


def test_show_of_an_unknown_recipe() -> None:
    assert run_failing("recipes", "show", "patchcor").startswith("unknown recipe 'patchcor'; did you mean 'patchcore'?")
