"""Recipes: the built-in ones, changes, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from patchcore_plugin import Host, OptionError, PluginError, Recipe
from patchcore_plugin.models.recipes import Choice, Map, Preprocessing
from patchcore_plugin.plugins.specs import ROLES

BUILT_IN = ["patchcore", "patchcore-1", "patchcore-25", "patchcore-paper"]
LAYERS = {"layers": ["layer2", "layer3"]}

TEXT = """
summary = "mine"
[preprocessing]
size = [64, 48]
[backbone]
name = "resnet18"
weights = "random"
[aggregator]
name = "average-pool"
[sampler]
name = "random"
ratio = 0.5
[scorer]
name = "knn"
[map]
sigma = 0
"""


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(OptionError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def file(folder: Path, text: str, name: str = "mine.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def host() -> Host:
    return Host(entry_points=False)


# Built-in recipes


def test_names_are_sorted() -> None:
    assert set(BUILT_IN) <= set(Recipe.names())
    assert Recipe.names() == sorted(Recipe.names())


@pytest.mark.parametrize("name", Recipe.names())
def test_every_built_in_recipe_resolves(name: str, host: Host) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.summary
    resolved = recipe.resolve(host, seed=7)
    for member, member_resolved in zip(recipe.members, resolved.members, strict=True):
        for role in ROLES:
            complete, choice = member_resolved.choice(role), member.choice(role)
            assert complete.name == choice.name
            config = host.component(role, choice.name).spec.config
            assert list(complete.options) == [field.name for field in dataclasses.fields(config)]
            for option, value in choice.options.items():
                resolved_value = complete.options[option]
                assert (list(resolved_value) if isinstance(resolved_value, tuple) else resolved_value) == value
    assert resolved.resolve(host, seed=8) == resolved


@pytest.mark.parametrize(("name", "ratio"), [("patchcore", 0.1), ("patchcore-1", 0.01), ("patchcore-25", 0.25)])
def test_the_recipes_of_the_paper_inspect_the_whole_image(name: str, ratio: float) -> None:
    recipe = Recipe.load(name)
    assert recipe.backbone == Choice(name="wide_resnet50", options=LAYERS)
    assert recipe.aggregator == Choice(name="average-pool", options={"patch_size": 3})
    assert recipe.sampler == Choice(name="greedy-coreset", options={"ratio": ratio})
    assert recipe.scorer == Choice(name="knn", options={"neighbours": 9})
    assert recipe.preprocessing == Preprocessing(size=(256, 256), keep_aspect=False, crop=None)
    assert recipe.map == Map(sigma=4.0)


def test_the_recipe_of_the_authors_code() -> None:
    recipe = Recipe.load("patchcore-paper")
    assert recipe.preprocessing == Preprocessing(size=(256, 256), keep_aspect=True, crop=(224, 224))
    assert recipe.aggregator.options["embed_dim"] == 1024
    assert recipe.sampler.options == {"ratio": 0.1, "projection_dim": 128}
    assert "border" in recipe.summary
    assert "NOT inspected" in recipe.summary


# Loading


def test_a_recipe_in_a_file(tmp_path: Path, host: Host) -> None:
    recipe = Recipe.load(file(tmp_path, TEXT))
    assert (recipe.name, recipe.summary) == ("mine", "mine")
    assert recipe.preprocessing.size == (64, 48)
    assert recipe.backbone == Choice(name="resnet18", options={"weights": "random"})
    assert recipe.map == Map(sigma=0)
    resolved = recipe.resolve(host, seed=5)
    assert resolved.backbone.options == {"layers": ("layer2", "layer3"), "weights": "random", "seed": 5}
    assert resolved.sampler.options == {"ratio": 0.5, "count": None, "seed": 5}


def test_the_name_in_a_file_wins(tmp_path: Path) -> None:
    assert Recipe.load(file(tmp_path, 'name = "other"\n' + TEXT)).name == "other"


def test_an_unknown_recipe() -> None:
    message = refusal(Recipe.load, "patchcore-papr")
    assert "did you mean 'patchcore-paper'?" in message
    assert all(name in message for name in Recipe.names())
    assert "did you mean" not in refusal(Recipe.load, "zzz")
    assert "unknown recipe" in refusal(Recipe.load, "../recipes/patchcore")


def test_a_file_that_is_not_a_recipe(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.toml")
    assert refusal(Recipe.load, missing).startswith(f"recipe file {missing} ")
    broken = file(tmp_path, "[map\n")
    assert "not valid TOML" in refusal(Recipe.load, broken)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(Recipe.load, str(binary))


@pytest.mark.parametrize("role", ROLES)
def test_a_missing_role_is_named(role: str, tmp_path: Path) -> None:
    message = f"recipe 'mine': needs a table [{role}]"
    without = re.sub(rf"\[{role}\]\n(.+=.+\n)+", "", TEXT)
    assert message in refusal(Recipe.load, file(tmp_path, without))
    nameless = re.sub(rf"(\[{role}\]\n)name = .+\n", r"\1", TEXT)
    assert message in refusal(Recipe.load, file(tmp_path, nameless))
    assert message in refusal(Recipe.load, file(tmp_path, f'{role} = "knn"\n{without}'))


@pytest.mark.parametrize(
    ("old", "new", "fact"),
    [
        ("[sampler]", "[smapler]", "unknown entry 'smapler'; its entries are: name, summary, backbone"),
        ("size = [64, 48]", "szie = 1", ", preprocessing: unknown option 'szie'; did you mean 'size'?"),
        ("size = [64, 48]", "size = [64, 4]", ", preprocessing: option 'size' must be greater than or equal to 8"),
        ("size = [64, 48]", "size = 64", "option 'size' must be a list, got 64"),
        ("size = [64, 48]", "size = [64, 48]\ncrop = [65, 48]", "crop [65, 48] is larger than size [64, 48]"),
        ("size = [64, 48]", "keep_aspect = true", "keep_aspect needs crop"),
        ("size = [64, 48]", "size = [64, 48]\ntile = [72, 48]", "tile [72, 48] is larger than the input, [64, 48]"),
        ("size = [64, 48]", "size = [64, 48]\noverlap = 8", "overlap 8 must be smaller"),
        ("size = [64, 48]", "size = [64, 48]\ntile = [64, 32]\noverlap = 32", "overlap 32 must be smaller"),
        ("sigma = 0", "sigma = -1", ", map: option 'sigma' must be greater than or equal to 0, got -1"),
        ("sigma = 0", "sigma = inf", ", map: option 'sigma' must be less than or equal to 1000, got inf"),
        ("[map]\nsigma = 0", "[[map]]", "map must be a table"),
    ],
)
def test_a_wrong_recipe_is_refused(old: str, new: str, fact: str, tmp_path: Path) -> None:
    assert old in TEXT
    message = refusal(Recipe.load, file(tmp_path, TEXT.replace(old, new)))
    assert message.startswith("recipe 'mine'")
    assert fact in message


def test_tables_for_all_members_are_optional(tmp_path: Path) -> None:
    assert Recipe.load(file(tmp_path, TEXT.replace("[map]\nsigma = 0", ""))).map == Map()


def test_options_of_components_are_checked_when_resolved(tmp_path: Path, host: Host) -> None:
    recipe = Recipe.load(file(tmp_path, TEXT.replace("ratio = 0.5", "raito = 0.5")))
    assert "sampler 'random': unknown option 'raito'; did you mean 'ratio'?" in refusal(recipe.resolve, host, 0)
    with pytest.raises(PluginError, match=r"unknown sampler 'randm'; did you mean 'random'\?"):
        Recipe.load(file(tmp_path, TEXT.replace('"random"\nratio', '"randm"\nratio'))).resolve(host, 0)


# Changing


def test_another_component_starts_with_its_own_defaults() -> None:
    recipe = Recipe.load("patchcore")
    assert recipe.change("backbone", "resnet18").backbone == Choice(name="resnet18")
    assert recipe.change("sampler", {"name": "random", "count": 5}).sampler == Choice(
        name="random", options={"count": 5}
    )
    assert recipe == Recipe.load("patchcore")


def test_options_are_added_to_those_set() -> None:
    recipe = Recipe.load("patchcore-paper")
    changed = recipe.change("sampler", {"ratio": 0.5})
    assert changed.sampler == Choice(name="greedy-coreset", options={"ratio": 0.5, "projection_dim": 128})
    assert recipe.change("sampler", "greedy-coreset") == recipe
    assert changed.change("sampler", {"name": "greedy-coreset", "count": 4}).sampler.options == {
        "ratio": 0.5,
        "projection_dim": 128,
        "count": 4,
    }


def test_preprocessing_and_map_change() -> None:
    recipe = Recipe.load("patchcore-paper").change("preprocessing", {"size": [300, 300]}).change("map", {"sigma": 2})
    assert recipe.preprocessing == Preprocessing(size=(300, 300), keep_aspect=True, crop=(224, 224))
    assert recipe.map == Map(sigma=2.0)


def test_wrong_changes_are_refused() -> None:
    recipe = Recipe.load("patchcore")
    assert "unknown section 'bckbone'" in refusal(recipe.change, "bckbone", "resnet18")
    assert "got 'sharp'" in refusal(recipe.change, "map", "sharp")
    assert "did you mean 'sigma'?" in refusal(recipe.change, "map", {"sgima": 1})
    assert "got 5" in refusal(recipe.change, "sampler", {"name": 5})


def test_a_seed_that_was_set_stays(host: Host) -> None:
    recipe = Recipe.load("patchcore").change("sampler", {"seed": 3})
    resolved = recipe.resolve(host, seed=9)
    assert resolved.sampler.options["seed"] == 3
    assert resolved.backbone.options["seed"] == 9
    assert "seed" not in resolved.scorer.options


# As data


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("through_json", [False, True])
def test_a_recipe_is_restored_from_its_data(name: str, through_json: bool, host: Host) -> None:
    for recipe in (Recipe.load(name), Recipe.load(name).resolve(host, seed=4)):
        data = recipe.to_dict()
        again = Recipe.from_dict(json.loads(json.dumps(data)) if through_json else data)
        assert again.preprocessing == recipe.preprocessing
        assert again.resolve(host, seed=4) == recipe.resolve(host, seed=4)
        assert (again.name, again.summary, again.map) == (recipe.name, recipe.summary, recipe.map)


def test_data_are_a_copy() -> None:
    data = Recipe.load("patchcore").to_dict()
    data["sampler"]["ratio"] = 1
    assert Recipe.load("patchcore").sampler.options["ratio"] == 0.1
