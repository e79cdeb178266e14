"""Components are made of their options, and a plugin that makes none is named."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.plugins.options import describe
from tests.plugins.fake_plugins import Config, error, host_with, kept, sampler


def options_error(options: dict[str, Any], role: str = "sampler", name: str = "greedy-coreset") -> str:
    return error(pp.Host(entry_points=False).create, role, name, kind=pp.OptionError, **options)


def test_options_that_cannot_be() -> None:
    assert options_error({"ratoi": 0.1}) == (
        "sampler 'greedy-coreset': unknown option 'ratoi'; did you mean 'ratio'? "
        "its options are: ratio, count, radius, projection_dim, seed"
    )
    assert options_error({"ratio": "much"}) == (
        "sampler 'greedy-coreset': option 'ratio' must be a valid number, got 'much'"
    )
    assert options_error({"ratio": 1.5}) == (
        "sampler 'greedy-coreset': option 'ratio' must be less than or equal to 1, got 1.5"
    )
    assert options_error({"patch_size": 4}, "aggregator", "average-pool") == (
        "aggregator 'average-pool': patch_size must be odd, got 4"
    )


def test_options_reach_create() -> None:
    host = host_with(lambda: [sampler()])
    assert host.configure("sampler", "first", {"keep": "4"}) == Config(keep=4)
    assert kept(host, keep=4) == [0, 1, 2, 3]
    assert host.build("sampler", "first", Config(keep=1))(torch.zeros(9, 1)).tolist() == [0]


@dataclass(frozen=True, kw_only=True)
class Odd:
    host: pp.Host
    """Of a type that nobody can check."""


@dataclass(frozen=True, kw_only=True)
class BrokenCheck:
    def __post_init__(self) -> None:
        raise TypeError("forgot a case")


def test_a_config_that_cannot_be_checked_is_the_plugins_fault() -> None:
    records = [sampler("odd", config=Odd), sampler("broken", config=BrokenCheck)]
    host = host_with(lambda: records)
    message = error(host.create, "sampler", "odd", host=1)
    assert message.startswith(
        "sampler 'odd' of mine (- -): its options cannot be checked: PydanticSchemaGenerationError: Unable to generate"
    )
    assert message.endswith("; report it to the plugin's author")
    assert "\n" not in message
    assert error(host.create, "sampler", "broken") == (
        "sampler 'broken' of mine (- -): its options cannot be checked: TypeError: forgot a case; "
        "report it to the plugin's author"
    )


def host_making(create: Callable[[Config], Any]) -> pp.Host:
    return host_with(lambda: [sampler(create=create)])


def test_a_create_that_raises() -> None:
    def needs_something(config: Config) -> Any:
        return importlib.import_module("a_module_that_is_nowhere")

    host = host_making(needs_something)
    with pytest.raises(pp.PluginError) as caught:
        host.create("sampler", "first")
    assert str(caught.value) == (
        "sampler 'first' of mine (- -) cannot be made: ModuleNotFoundError: No module named "
        "'a_module_that_is_nowhere'; check its options and its installation"
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_create_that_says_what_is_wrong_is_passed_on() -> None:
    def refuse(config: Config) -> Any:
        raise pp.WeightsError("no weights; download them")

    assert error(host_making(refuse).create, "sampler", "first", kind=pp.WeightsError) == "no weights; download them"


@pytest.mark.parametrize(("made", "kind"), [(None, "NoneType"), ([1], "list")])
def test_a_create_that_returns_something_else(made: object, kind: str) -> None:
    assert error(host_making(lambda _: made).create, "sampler", "first") == (
        f"sampler 'first' of mine (- -): create returned {kind}, which is no Sampler; "
        "see patchcore_plugin.plugins.protocols"
    )


def test_a_half_scorer_is_no_scorer() -> None:
    class Half:
        def fit(self, bank: pp.MemoryBank) -> None: ...

        def __call__(self, patches: pp.Patches) -> pp.Scores:
            raise NotImplementedError

    spec = pp.ScorerSpec(name="half", config=Config, create=lambda _: Half(), summary="half")  # type: ignore[arg-type,return-value]
    host = host_with(lambda: [spec], "patchcore_scorers")
    assert error(host.create, "scorer", "half") == (
        "scorer 'half' of mine (- -): create returned Half, which is no Scorer; see patchcore_plugin.plugins.protocols"
    )


def test_the_api_of_components() -> None:
    host = pp.Host()
    assert "efficientnet-lite0" in host.names("backbone")
    generator = torch.Generator().manual_seed(0)
    layer2, layer3 = (torch.rand(2, c, s, s, generator=generator) for c, s in ((12, 8), (20, 4)))
    patches = host.create("aggregator", "average-pool", patch_size=3, embed_dim=16)([layer2, layer3])
    assert isinstance(patches, pp.Patches)
    assert patches.grid.shape == (2, 8, 8, 16)
    vectors = patches.grid.flatten(0, 2)
    index = host.create("sampler", "greedy-coreset", ratio=0.1, projection_dim=None, seed=0)(vectors)
    assert (index.dtype, len(index)) == (torch.int64, 13)
    assert len(set(index.tolist())) == 13
    scorer = host.create("scorer", "knn", neighbours=9)
    origin = torch.stack([index // 64, index % 64 // 8, index % 8], dim=1)
    scorer.fit(pp.MemoryBank(vectors=vectors[index], origin=origin))
    scores = scorer(patches)
    assert isinstance(scores, pp.Scores)
    assert scores.map is not None
    assert scores.nearest is not None
    assert scores.map.shape == scores.nearest.shape == (2, 8, 8)
    assert scores.map.flatten()[index].tolist() == [0.0] * 13


def test_documented_options_have_a_meaning() -> None:
    """A user who asks for a component's options reads what each is for."""
    host = pp.Host()
    for component in host.components():
        options = describe(component.spec.config)
        assert [each.name for each in options] == [field.name for field in fields(component.spec.config)]
        assert all(each.meaning for each in options), component.spec.name
