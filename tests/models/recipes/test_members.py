"""Recipes of several members: what they have in common, changes to one or all, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import patchcore_plugin as pp

OWN = '[backbone]\nname = "resnet18"\n[aggregator]\nname = "average-pool"\n[sampler]\nname = "all"\n'


def recipe(*members: Any, **tables: Any) -> pp.Recipe:
    return pp.Recipe.from_dict({"name": "mine", "preprocessing": {"size": [64, 64]}, **tables, "members": [*members]})


def refusal(*members: Any, **tables: Any) -> str:
    with pytest.raises(pp.OptionError) as caught:
        recipe(*members, **tables)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("members", "fact"),
    [
        ([], "at least one member"),
        (["patchcore-ensemble"], "member 0: 'patchcore-ensemble' is an ensemble"),
        ([{"recipe": "patchcore-ensemble"}], "member 0: 'patchcore-ensemble' is an ensemble"),
        (["patchcore", {"name": "x", "members": []}], "member 1: a member cannot be an ensemble"),
        (["patchcore", "patchcor-1"], "member 1: unknown recipe 'patchcor-1'; did you mean 'patchcore-1'?"),
        (["none.toml"], "member 0: recipe file none.toml does not exist"),
        ([7], "member 0: expected the name of a recipe, or a table, got 7"),
        ([{"recipe": 7}], "got 7"),
        ([{"recipe": "patchcore", "preprocessing": {"size": [8, 8]}}], "table [preprocessing] of the recipe"),
        ([{"recipe": "patchcore", "smapler": "all"}], "unknown entry smapler"),
        ([{"recipe": "patchcore", "sampler": 5}], "unknown entry sampler = 5"),
        ([{"name": "x"}], "member 0: recipe 'x': needs a table [backbone]"),
        (7, "must be a list"),
    ],
)
def test_wrong_members_are_refused(members: Any, fact: str) -> None:
    with pytest.raises(pp.OptionError) as caught:
        pp.Recipe.from_dict({"name": "mine", "members": members})
    assert str(caught.value).startswith("recipe 'mine'")
    assert fact in str(caught.value)


def test_wrong_tables_are_refused() -> None:
    assert "unknown entry 'smapler'; its entries are: name, summary, members" in refusal("patchcore", smapler={})
    assert "map must be a table" in refusal("patchcore", map=[{}])
    assert "did you mean 'sigma'?" in refusal("patchcore", map={"sgima": 1})


def test_members_must_agree_in_preprocessing_unless_the_recipe_has_it() -> None:
    with pytest.raises(pp.OptionError, match=r"0 \(patchcore\) and 1 \(patchcore-paper\) differ in preprocessing"):
        pp.Recipe.from_dict({"members": ["patchcore", "patchcore-paper"]})
    agreed = pp.Recipe.from_dict({"members": ["patchcore-paper", "patchcore-paper"]})
    assert agreed.preprocessing.crop == (224, 224)
    common = recipe("patchcore", "patchcore-paper", map={"sigma": 1})
    assert (common.preprocessing.size, common.preprocessing.crop, common.map.sigma) == ((64, 64), None, 1)
    assert {each.preprocessing for each in common.split()} == {common.preprocessing}


def test_changes_are_for_all_members_or_one() -> None:
    plain = recipe("patchcore", "patchcore-paper")
    assert [each.sampler.options["ratio"] for each in plain.change("sampler", {"ratio": 0.3}).members] == [0.3, 0.3]
    one = plain.change("1.sampler", {"ratio": 0.3}).change("0.backbone", "resnet18")
    assert [each.sampler.options["ratio"] for each in one.members] == [0.1, 0.3]
    assert [each.backbone.name for each in one.members] == ["resnet18", "wide_resnet50"]
    assert plain.change("map", {"sigma": 2}).map.sigma == 2
    for part in ("2.sampler", "-1.sampler", "1.map", "0.", "smapler"):
        with pytest.raises(pp.OptionError, match=f"unknown section '{part}'.*0 to 1"):
            plain.change(part, {})


def test_a_member_with_a_wrong_option_is_named() -> None:
    host = pp.Host(entry_points=False)
    with pytest.raises(pp.OptionError, match=r"member 1 \(two\): scorer 'knn': unknown option 'neigh'"):
        recipe("patchcore", {"recipe": "patchcore", "name": "two", "scorer": {"neigh": 1}}).resolve(host, 0)
    with pytest.raises(pp.PluginError, match=r"member 0 \(patchcore\): unknown sampler 'rondom'"):
        recipe({"recipe": "patchcore", "sampler": "rondom"}, "patchcore").resolve(host, 0)


def test_components_of_several_members_have_no_single_choice() -> None:
    with pytest.raises(pp.OptionError, match="2 members"):
        _ = recipe("patchcore", "patchcore").sampler
    single = recipe({"recipe": "patchcore", "sampler": "all"})
    assert single.sampler.name == "all"
    assert single.split() == [single]


def test_the_ensemble_of_the_paper() -> None:
    ensemble = pp.Recipe.load("patchcore-ensemble")
    assert (ensemble.preprocessing.size, ensemble.preprocessing.crop) == ((320, 320), None)
    resolved = ensemble.resolve(pp.Host(entry_points=False), seed=4)
    assert [(each.backbone.name, each.backbone.options["layers"]) for each in resolved.members] == [
        ("wide_resnet101", ("layer2", "layer3")),
        ("resnext101", ("layer2", "layer3")),
        ("densenet201", ("denseblock2", "denseblock3")),
    ]
    assert {each.sampler.options["ratio"] for each in resolved.members} == {0.01}
    assert {each.sampler.options["seed"] for each in resolved.members} == {4}
    again = pp.Recipe.from_dict(resolved.to_dict()).resolve(pp.Host(entry_points=False), seed=9)
    assert again == resolved


def test_members_are_found_next_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "one.toml").write_text(OWN + '[scorer]\nname = "knn"\n', encoding="utf-8")
    text = 'members = ["one.toml", { recipe = "one.toml", name = "two", sampler = "random" }]\n'
    (tmp_path / "own" / "many.toml").write_text(text, encoding="utf-8")
    many = pp.Recipe.load(str(tmp_path / "own" / "many.toml"))
    assert many.name == "many"
    assert [(each.name, each.sampler.name) for each in many.members] == [("one", "all"), ("two", "random")]
    with pytest.raises(pp.OptionError, match="is an ensemble"):
        pp.Recipe.from_dict({"members": [str(tmp_path / "own" / "many.toml")]})
