"""Values of `--set`, options of one recipe among several, and sizes."""

from __future__ import annotations

from typing import Any

import pytest
import typer

import patchcore_plugin as pp
from patchcore_plugin.cli.options import DetectorOptions
from patchcore_plugin.cli.parsing import group_by_recipe, parse_option, parse_size


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
        ("1" * 5000, "1" * 5000),  # more digits than Python converts
    ],
    ids=lambda value: str(value)[:20],
)
def test_values(text: str, value: Any) -> None:
    for option in (f"part.option={text}", f" part.option = {text} "):
        part, name, parsed = parse_option(option)
        assert (part, name) == ("part", "option")
        assert parsed == value
        assert type(parsed) is type(value)


def test_option_of_one_member() -> None:
    assert parse_option("0.sampler.ratio=0.5") == ("0.sampler", "ratio", 0.5)


@pytest.mark.parametrize("text", ["ratio=0.1", "sampler.ratio", ".ratio=1", "sampler.=1"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(pp.OptionError, match=r"ROLE\.OPTION=VALUE"):
        parse_option(text)


def test_options_of_one_part_apply_together_in_any_order() -> None:
    options = ("preprocessing.keep_aspect=true", "sampler.ratio=0.5", "preprocessing.crop=64,48", "sampler.ratio=0.2")
    recipe = DetectorOptions(recipe="patchcore", options=options).load_recipe()
    assert isinstance(recipe, pp.Recipe)
    assert recipe.preprocessing.keep_aspect
    assert recipe.preprocessing.crop == (64, 48)
    assert recipe.sampler.options["ratio"] == 0.2


def test_options_of_one_recipe() -> None:
    texts = ["map.sigma=2", "b:sampler.ratio=0.5", "a:backbone.weights=C:/x=y"]
    assert group_by_recipe(texts, ["a", "b"]) == {
        "a": ("map.sigma=2", "backbone.weights=C:/x=y"),
        "b": ("map.sigma=2", "sampler.ratio=0.5"),
    }
    assert group_by_recipe(["backbone.weights=C:/x"], ["a"]) == {"a": ("backbone.weights=C:/x",)}
    with pytest.raises(pp.OptionError, match=r"^--set c:map.sigma=2: .*'c'.*: a, b$"):
        group_by_recipe(["c:map.sigma=2"], ["a", "b"])


def test_sizes() -> None:
    sizes = {"2GB": 2 * 10**9, "1.5 GiB": 3 << 29, "20mb": 20 * 10**6, " 1 TiB ": 1 << 40}
    assert {text: parse_size(text) for text in sizes} == sizes
    for text in ("", "2", "GB", "0MB", "-1GB", "2 KB", "2 GB left", "nan GB"):
        with pytest.raises(typer.BadParameter, match="2GB"):
            parse_size(text)
