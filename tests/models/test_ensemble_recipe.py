"""Recipes of ensembles: members and what they have in common, in Python, in files and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import patchcore_plugin as pp
from tests.commands import done, failure, loaded
from tests.models.ensembles import FINE, member, recipe


def refused(*members: Any, **tables: Any) -> str:
    with pytest.raises(pp.OptionError) as caught:
        recipe(*members, **tables)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix("recipe 'mine'")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], ": an ensemble needs at least one member"),
        (["patchcore-ensemble"], ", member 0: 'patchcore-ensemble' is an ensemble itself; name its members instead"),
        ([{"recipe": "patchcore-ensemble"}], ", member 0: 'patchcore-ensemble' is an ensemble itself; "),
        (["patchcore", "patchcor-1"], ", member 1: unknown recipe 'patchcor-1'; did you mean 'patchcore-1'? "),
        (["none.toml"], ", member 0: recipe file none.toml does not exist"),
        ([7], ", member 0: expected the name of a recipe, or a table, got 7"),
        ([{"recipe": 7}], ", member 0: recipe must be the name of one, or a path, got 7"),
        (
            [{"recipe": "patchcore", "preprocessing": {"size": [8, 8]}}],
            ", member 0: preprocessing is one for all members; write it as the ensemble's table [preprocessing]",
        ),
        (
            [{"recipe": "patchcore", "smapler": "all"}],
            ", member 0: unknown entry smapler = 'all'; beside recipe, name and summary it may have, as a name or a "
            "table: backbone, aggregator, sampler, scorer",
        ),
        ([{"recipe": "patchcore", "sampler": 5}], ", member 0: unknown entry sampler = 5; "),
        ([{"name": "x"}], ", member 0: recipe 'x': needs a table [backbone] with a name"),
    ],
)
def test_what_is_said_about_wrong_members(members: list[Any], message: str) -> None:
    assert refused(*members).startswith(message)


def test_what_is_said_about_a_wrong_ensemble() -> None:
    assert refused("patchcore", smapler={}) == (
        ": unknown entry 'smapler'; an ensemble's entries are: name, summary, members, preprocessing, map"
    )
    assert refused("patchcore", map=[{}]) == ": map must be a table of options, got [{}]"
    assert refused("patchcore", map={"sgima": 1}).startswith(", map: unknown option 'sgima'; did you mean 'sigma'? ")
    with pytest.raises(pp.OptionError, match="recipe 'x': members must be a list of recipes, got 'patchcore'"):
        pp.Recipe.from_dict({"name": "x", "members": "patchcore"})
    with pytest.raises(pp.OptionError) as caught:
        pp.Recipe.from_dict({"name": "x", "members": ["patchcore", "patchcore-paper"]})
    assert str(caught.value) == (
        "recipe 'x': its members 0 (patchcore) and 1 (patchcore-paper) differ in preprocessing; "
        "give the ensemble a table [preprocessing] for all of them"
    )


def test_preprocessing_is_the_ensembles() -> None:
    agreed = pp.Recipe.from_dict({"members": ["patchcore-paper", "patchcore-paper"]})
    assert agreed.preprocessing.crop == (224, 224)
    given = recipe("patchcore", "patchcore-paper", map={"sigma": 1})
    assert {each.preprocessing for each in given.members} == {given.preprocessing}
    assert (given.preprocessing.size, given.preprocessing.crop, given.map.sigma) == ((64, 64), None, 1)


def test_changes_are_for_all_members_or_one() -> None:
    plain = recipe("patchcore", "patchcore-paper")
    assert [each.sampler.options["ratio"] for each in plain.change("sampler", {"ratio": 0.3}).members] == [0.3, 0.3]
    one = plain.change("1.sampler", {"ratio": 0.3}).change("0.backbone", "resnet18")
    assert [each.sampler.options["ratio"] for each in one.members] == [0.1, 0.3]
    assert [each.backbone.name for each in one.members] == ["resnet18", "wide_resnet50"]
    assert plain.change("map", {"sigma": 2}).map.sigma == 2
    for part in ("2.sampler", "-1.sampler", "1.map", "0."):
        with pytest.raises(pp.OptionError) as caught:
            plain.change(part, {})
        assert str(caught.value) == (
            f"unknown part {part!r} of an ensemble; a part of one member is its number, from 0 to 1, and a role, "
            "such as 0.sampler"
        )
    with pytest.raises(pp.OptionError, match="unknown part 'smapler' of a recipe; it has: "):
        plain.change("smapler", {})


def test_a_member_with_a_wrong_option_is_named() -> None:
    with pytest.raises(pp.OptionError) as caught:
        recipe("patchcore", {"recipe": "patchcore", "name": "two", "scorer": {"neigh": 1}}).resolve(pp.Host(), 0)
    assert str(caught.value).startswith("recipe 'mine', member 1 (two): scorer 'knn': unknown option 'neigh'; ")
    with pytest.raises(pp.PluginError, match=r"recipe 'mine', member 0 \(patchcore\): unknown sampler 'rondom'"):
        recipe({"recipe": "patchcore", "sampler": "rondom"}).resolve(pp.Host(), 0)


def test_the_papers_ensemble() -> None:
    shipped = pp.Recipe.load("patchcore-ensemble")
    assert isinstance(shipped, pp.Recipe)
    assert shipped.preprocessing.size == (320, 320)
    assert shipped.preprocessing.crop is None
    resolved = shipped.resolve(pp.Host(entry_points=False), seed=4)
    assert [(each.backbone.name, each.backbone.options["layers"]) for each in resolved.members] == [
        ("wide_resnet101", ("layer2", "layer3")),
        ("resnext101", ("layer2", "layer3")),
        ("densenet201", ("denseblock2", "denseblock3")),
    ]
    assert {each.sampler.options["ratio"] for each in resolved.members} == {0.01}
    assert {each.sampler.options["seed"] for each in resolved.members} == {4}


def test_an_ensemble_is_told_from_a_single_method() -> None:
    message = "recipe 'patchcore-ensemble' is an ensemble, not a single method; name one of its members here"
    with pytest.raises(pp.OptionError, match=message):
        pp.Detector.from_recipe("patchcore-ensemble")
    with pytest.raises(pp.OptionError) as caught:
        pp.Detector.from_recipe("patchcore")
    assert str(caught.value) == "recipe 'patchcore' is a single method, not an ensemble; use Detector.from_recipe"
    assert isinstance(pp.Detector(recipe(member(FINE)), device="cpu"), pp.Detector)
    assert isinstance(pp.Detector(recipe(member(FINE)).members[0], device="cpu"), pp.Detector)


def test_members_are_found_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    own = '[backbone]\nname = "resnet18"\n[aggregator]\nname = "average-pool"\n[sampler]\nname = "all"\n'
    (tmp_path / "own" / "one.toml").write_text(own + '[scorer]\nname = "knn"\n', encoding="utf-8")
    text = 'members = ["one.toml", { recipe = "one.toml", name = "two", sampler = "random" }]\n'
    (tmp_path / "own" / "many.toml").write_text(text, encoding="utf-8")
    found = pp.Recipe.load(str(tmp_path / "own" / "many.toml"))
    assert isinstance(found, pp.Recipe)
    assert found.name == "many"
    assert [(each.name, each.sampler.name) for each in found.members] == [("one", "all"), ("two", "random")]


# The command line

TOML = """
summary = "two networks"
[preprocessing]
size = [64, 64]
[[members]]
recipe = "patchcore"
name = "lite0"
backbone = "efficientnet-lite0"
[[members]]
recipe = "patchcore-1"
name = "lite1"
backbone = { name = "efficientnet-lite1", layers = ["stage3"] }
"""


def test_the_command_line_takes_an_ensemble_where_it_takes_a_method(dataset: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "mine.toml", tmp_path / "m.safetensors"
    mine.write_text(TOML, encoding="utf-8")
    options = ["--recipe", mine, "--set", "0.sampler.ratio=0.05", "--device", "cpu"]
    ended = done("fit", dataset, "--out", out, *options)
    assert "\nmember 0   lite0\nbank       32 of 640 patches, covering radius " in ended.out
    assert "\nmember 1   lite1\nbank       7 of 640 patches, " in ended.out
    assert "for --set 0.sampler.radius=" in ended.out
    assert "member 0 (lite0): 10 images make 640 patches of 312 values" in ended.err

    records = loaded("predict", out, dataset / "test", "--out", tmp_path / "results")["results"]
    model = pp.load_model(out, device="cpu")
    paths = sorted((dataset / "test").rglob("*.png"))
    expected = {str(found.path): found.score for found in model.predict(paths)}
    assert {each["path"]: each["score"] for each in records} == expected
    assert all((tmp_path / "results" / each["map"]).is_file() for each in records)
    assert {each["threshold"] for each in records} == {model.threshold}

    found = loaded("evaluate", dataset, "--out", tmp_path / "report", *options)
    assert found["categories"]["washer"]["image_auroc"] == 1
    assert found["categories"]["washer"]["bank_rows"] == 39
    assert [each["name"] for each in found["recipe"]["members"]] == ["lite0", "lite1"]
    assert "efficientnet-lite1" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_what_a_fit_says_as_json(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    summary = loaded("fit", dataset, "--out", tmp_path / "m", "--recipe", tmp_path / "mine.toml", "--device", "cpu")
    assert [(each["name"], each["bank_rows"], each["patches_seen"]) for each in summary["members"]] == [
        ("lite0", 64, 640),
        ("lite1", 7, 640),
    ]
    assert all(each["covering_radius"] > 0 for each in summary["members"])
    assert "bank_rows" not in summary


def test_a_recipe_is_shown_as_it_is_read(tmp_path: Path) -> None:
    for name in ("mine.toml", "again.toml"):
        (tmp_path / name).write_text(TOML, encoding="utf-8")
    shown = done("recipes", "show", tmp_path / "mine.toml").out
    (tmp_path / "again.toml").write_text(shown, encoding="utf-8")
    first, second = (pp.Recipe.load(str(tmp_path / name)).resolve(pp.Host(), 0) for name in ("mine.toml", "again.toml"))
    assert {**first.to_dict(), "name": "", "summary": ""} == {**second.to_dict(), "name": "", "summary": ""}


def test_one_backbone_is_exported_at_a_time(tmp_path: Path) -> None:
    said = failure("export-backbone", "--out", tmp_path / "x.onnx", "--recipe", "patchcore-ensemble")
    assert said == ("recipe 'patchcore-ensemble' is an ensemble; export one backbone at a time with --backbone NAME")


def test_a_member_that_there_is_not(dataset: Path, tmp_path: Path) -> None:
    command = ["fit", dataset, "--out", tmp_path / "m", "--recipe", "patchcore-ensemble", "--set", "3.sampler.ratio=1"]
    assert failure(*command) == (
        "unknown part '3.sampler' of an ensemble; a part of one member is its number, from 0 to 2, and a role, such as "
        "0.sampler"
    )
