"""What ``--set`` means: values, several options of one part, and options of one recipe among several."""

from __future__ import annotations

from typing import Any

import pytest

import patchcore_plugin as pp
from patchcore_plugin.cli.setup import Setup, options_by_recipe, parse_option


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        ("7", 7),
        ("True", True),
        ("false", False),
        ("None", None),
        ("null", None),
        ("layer2", "layer2"),
        ("layer2,", ["layer2"]),
        ("layer2, layer3", ["layer2", "layer3"]),
        ("64,48", [64, 48]),
        ('["layer2"]', ["layer2"]),
        ('"7"', "7"),
        ("C:/weights=a.pth", "C:/weights=a.pth"),
        ("", ""),
        ("1" * 5000, "1" * 5000),  # more digits than Python reads
    ],
    ids=lambda value: str(value)[:20],
)
def test_values(text: str, value: Any) -> None:
    for option in (f"part.option={text}", f" part.option = {text} "):
        part, name, found = parse_option(option)
        assert (part, name) == ("part", "option")
        assert found == value
        assert type(found) is type(value)


def test_a_member_of_an_ensemble_is_named_before_its_part() -> None:
    assert parse_option("0.sampler.ratio=0.5") == ("0.sampler", "ratio", 0.5)


def test_options_of_one_part_are_set_together_in_whatever_order() -> None:
    options = ("preprocessing.keep_aspect=true", "sampler.ratio=0.5", "preprocessing.crop=64,48", "sampler.ratio=0.2")
    recipe = Setup(recipe="patchcore", options=options).load()
    assert isinstance(recipe, pp.Recipe)
    assert recipe.preprocessing.keep_aspect
    assert recipe.preprocessing.crop == (64, 48)
    assert recipe.sampler.options["ratio"] == 0.2


def test_options_of_one_recipe() -> None:
    texts = ["map.sigma=2", "b:sampler.ratio=0.5", "a:backbone.weights=C:/x=y"]
    assert options_by_recipe(texts, ["a", "b"]) == {
        "a": ("map.sigma=2", "backbone.weights=C:/x=y"),
        "b": ("map.sigma=2", "sampler.ratio=0.5"),
    }
    assert options_by_recipe(["backbone.weights=C:/x"], ["a"]) == {"a": ("backbone.weights=C:/x",)}
    with pytest.raises(pp.OptionError, match=r"^--set c:map.sigma=2: 'c' is none of the recipes .*, which are: a, b$"):
        options_by_recipe(["c:map.sigma=2"], ["a", "b"])
