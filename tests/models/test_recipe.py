"""Recipes: what is shipped, how they change, and what is said about one that is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from patchcore_plugin import Host, OptionError, PluginError, Recipe
from patchcore_plugin.models.recipes import Choice, Map, Preprocessing
from patchcore_plugin.plugins.specs import ROLES

SHIPPED = ["patchcore", "patchcore-1", "patchcore-25", "patchcore-paper"]
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


def refused(call: Any, *args: Any) -> str:
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


# What is shipped


def test_what_is_shipped() -> None:
    assert set(SHIPPED) <= set(Recipe.names())
    assert Recipe.names() == sorted(Recipe.names())


@pytest.mark.parametrize("name", Recipe.names())
def test_every_shipped_recipe_resolves(name: str, host: Host) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.summary
    if isinstance(recipe, Recipe):
        check_resolved(recipe, host)
    else:
        assert len(recipe.members) > 1
        for member in recipe.members:
            check_resolved(member, host)


def check_resolved(recipe: Recipe, host: Host) -> None:
    resolved = recipe.resolve(host, seed=7)
    for role in ROLES:
        written, chosen = resolved.choice(role), recipe.choice(role)
        assert written.name == chosen.name
        config = host.component(role, chosen.name).spec.config
        assert list(written.options) == list(config.__dataclass_fields__)
        for option, value in chosen.options.items():
            got = written.options[option]
            assert (list(got) if isinstance(got, tuple) else got) == value
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


def test_a_recipe_of_ones_own(tmp_path: Path, host: Host) -> None:
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
    choices = f"available: {', '.join(Recipe.names())}, or the path of a .toml file"
    assert refused(Recipe.load, "patchcore-papr") == (
        f"unknown recipe 'patchcore-papr'; did you mean 'patchcore-paper'? {choices}"
    )
    assert refused(Recipe.load, "zzz") == f"unknown recipe 'zzz'; {choices}"
    assert refused(Recipe.load, "../recipes/patchcore").startswith("unknown recipe '../recipes/patchcore'; ")


def test_a_file_that_is_no_recipe(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.toml")
    assert refused(Recipe.load, missing) == f"recipe file {missing} does not exist"
    broken = file(tmp_path, "[map\n")
    assert refused(Recipe.load, broken).startswith(f"recipe {broken}: not valid TOML: ")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert refused(Recipe.load, str(binary)).startswith(f"recipe file {binary} is not UTF-8 text: ")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_is_missing(role: str, tmp_path: Path) -> None:
    message = f"recipe 'mine': needs a table [{role}] with a name"
    without = re.sub(rf"\[{role}\]\n(.+=.+\n)+", "", TEXT)
    assert refused(Recipe.load, file(tmp_path, without)) == message
    nameless = re.sub(rf"(\[{role}\]\n)name = .+\n", r"\1", TEXT)
    assert refused(Recipe.load, file(tmp_path, nameless)) == message
    assert refused(Recipe.load, file(tmp_path, f'{role} = "knn"\n{without}')) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("[sampler]", "[smapler]"),
            "unknown entry 'smapler'; its entries are: name, summary, backbone, aggregator, sampler, scorer, "
            "preprocessing, map",
        ),
        (("size = [64, 48]", "szie = 1"), ", preprocessing: unknown option 'szie'; did you mean 'size'? "),
        (
            ("size = [64, 48]", "size = [64, 4]"),
            ", preprocessing: option 'size' must be greater than or equal to 8, got 4",
        ),
        (("size = [64, 48]", "size = 64"), ", preprocessing: option 'size' must be a list, got 64"),
        (
            ("size = [64, 48]", "size = [64, 48]\ncrop = [65, 48]"),
            ", preprocessing: crop [65, 48] is larger than size [64, 48]",
        ),
        (
            ("size = [64, 48]", "keep_aspect = true"),
            ", preprocessing: keep_aspect needs crop, so that all images become inputs of one shape",
        ),
        (("sigma = 0", "sigma = -1"), ", map: option 'sigma' must be greater than or equal to 0, got -1"),
        (("sigma = 0", "sigma = inf"), ", map: option 'sigma' must be less than or equal to 1000, got inf"),
        (("[map]\nsigma = 0", ""), None),
        (("[map]\nsigma = 0", "[[map]]"), ": map must be a table of options, got [{}]"),
    ],
)
def test_what_is_said_about_a_wrong_recipe(change: tuple[str, str], message: str | None, tmp_path: Path) -> None:
    assert change[0] in TEXT
    path = file(tmp_path, TEXT.replace(*change))
    if message is None:
        assert Recipe.load(path).map == Map()
    else:
        separator = "" if message.startswith((",", ":")) else ": "
        assert refused(Recipe.load, path).startswith(f"recipe 'mine'{separator}{message}")


def test_options_of_components_are_checked_when_resolved(tmp_path: Path, host: Host) -> None:
    recipe = Recipe.load(file(tmp_path, TEXT.replace("ratio = 0.5", "raito = 0.5")))
    assert refused(recipe.resolved, host, 0) == (
        "sampler 'random': unknown option 'raito'; did you mean 'ratio'? its options are: ratio, count, seed"
    )
    with pytest.raises(PluginError) as caught:
        Recipe.load(file(tmp_path, TEXT.replace('"random"\nratio', '"randm"\nratio'))).resolve(host, 0)
    assert str(caught.value) == "unknown sampler 'randm'; did you mean 'random'? available: all, greedy-coreset, random"


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


def test_changes_that_cannot_be() -> None:
    recipe = Recipe.load("patchcore")
    assert refused(recipe.change, "bckbone", "resnet18") == (
        "unknown part 'bckbone' of a recipe; it has: backbone, aggregator, sampler, scorer, preprocessing, map"
    )
    assert refused(recipe.change, "map", "sharp") == "map: expected options such as {'sigma': 4}, got 'sharp'"
    assert refused(recipe.change, "map", {"sgima": 1}).startswith(
        "map: unknown option 'sgima'; did you mean 'sigma'? its options are: sigma"
    )
    assert refused(recipe.change, "sampler", {"name": 5}) == "sampler: its name must be text, got 5"


def test_a_seed_that_was_set_stays(host: Host) -> None:
    recipe = Recipe.load("patchcore").change("sampler", {"seed": 3})
    resolved = recipe.resolve(host, seed=9)
    assert resolved.sampler.options["seed"] == 3
    assert resolved.backbone.options["seed"] == 9
    assert "seed" not in resolved.scorer.options


# There and back


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("through_json", [False, True])
def test_a_recipe_survives_being_written_down(name: str, through_json: bool, host: Host) -> None:
    for recipe in (Recipe.load(name), Recipe.load(name).resolve(host, seed=4)):
        data = recipe.to_dict()
        again = Recipe.from_dict(json.loads(json.dumps(data)) if through_json else data)
        assert again.preprocessing == recipe.preprocessing
        assert again.resolve(host, seed=4) == recipe.resolve(host, seed=4)
        assert (again.name, again.summary, again.map) == (recipe.name, recipe.summary, recipe.map)


def test_what_is_written_down_is_not_shared() -> None:
    data = Recipe.load("patchcore").to_dict()
    data["sampler"]["ratio"] = 1
    assert Recipe.load("patchcore").sampler.options["ratio"] == 0.1
