"""The host: look-up of components, their creation, capabilities, and the default host."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin import plugins
from patchcore_plugin.plugins import builtin, hookspecs
from patchcore_plugin.plugins.options import describe
from patchcore_plugin.plugins.specs import ROLES
from tests.plugins.fake_plugins import (
    BUILT_IN,
    GOOD,
    Config,
    Install,
    built_in_works,
    error,
    found,
    host_with,
    sampler,
    select,
)

# Components


def test_built_in_plugins_use_the_same_hooks() -> None:
    host = pp.Host(entry_points=False)
    assert {role: host.names(role) for role in ROLES} == BUILT_IN
    assert {(plugin.distribution, plugin.status) for plugin in host.plugins} == {("patchcore-plugin", "loaded")}
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for module in builtin.PLUGINS.values():
        manager.register(module)
    for role in ROLES:
        hook = getattr(manager.hook, f"patchcore_{role}s")
        assert sorted(spec.name for records in hook() for spec in records) == BUILT_IN[role]


def test_installed_distribution_is_used(distribution: Install) -> None:
    distribution("acme-samplers", GOOD, version="2.1", entry_point="acme")
    host = pp.Host()
    assert str(found(host, "acme")) == "acme (acme-samplers 2.1)"
    assert found(host, "acme").status == "loaded"
    component = host.component("sampler", "first")
    assert component.plugin is found(host, "acme")
    assert component.spec.summary == "the first rows"
    assert select(host, keep=3) == [0, 1, 2]
    assert "first" not in pp.Host(entry_points=False).names("sampler")


def test_plugin_with_several_roles() -> None:
    @pp.hookimpl
    def patchcore_samplers() -> list[pp.SamplerSpec]:
        return [sampler()]

    @pp.hookimpl
    def patchcore_scorers() -> list[pp.ScorerSpec]:
        return []

    both = SimpleNamespace(patchcore_samplers=patchcore_samplers, patchcore_scorers=patchcore_scorers)
    host = pp.Host(entry_points=False, extra={"both": both})
    assert [spec.name for spec in found(host, "both").records] == ["first"]


def test_all_options_of_all_components_are_documented() -> None:
    for component in pp.Host().components():
        assert all(option.meaning for option in describe(component.spec.config)), component.spec.name


def test_package_has_the_documented_names() -> None:
    assert set(plugins.__all__) <= set(dir(plugins))
    assert all(getattr(plugins, name) is not None for name in plugins.__all__)
    assert plugins.Host is pp.Host
    with pytest.raises(AttributeError, match="zzz"):
        _ = plugins.zzz


# Look-up


def test_built_in_and_extra_plugins_can_be_blocked() -> None:
    host = host_with(lambda: [sampler()], block=["knn", "mine"])
    assert host.names("scorer") == [name for name in BUILT_IN["scorer"] if name != "knn"]
    assert found(host, "mine").status == "blocked"
    message = error(host.create, "scorer", "knn")
    assert "unknown scorer 'knn'" in message
    assert "mine (- -): blocked" in message


def test_unknown_name_lists_choices_and_plugins_that_are_not_loaded(distribution: Install) -> None:
    distribution("acme", "raise RuntimeError('no licence')", version="3.0")
    host = pp.Host()
    message = error(host.component, "sampler", "greedy-corset")
    assert "did you mean 'greedy-coreset'?" in message
    assert ", ".join(host.names("sampler")) in message
    assert "acme (acme 3.0): RuntimeError: no licence" in message
    assert "did you mean" not in error(host.create, "sampler", "zzz")
    assert "not loaded" not in error(pp.Host(entry_points=False).create, "sampler", "zzz")


@pytest.mark.parametrize("method", ["names", "component", "create", "components"])
def test_unknown_role(method: str) -> None:
    host = pp.Host(entry_points=False)
    arguments = ("sampelr", "all")[: 2 if method in ("component", "create") else 1]
    assert "did you mean 'sampler'?" in error(getattr(host, method), *arguments)


def test_name_claimed_twice(distribution: Install) -> None:
    distribution("acme", GOOD, version="1.2")
    distribution("zenith", GOOD, version="3.4", entry_point="zen")
    host = pp.Host()
    message = error(host.create, "sampler", "first")
    assert "acme (acme 1.2) and zen (zenith 3.4)" in message
    assert message.endswith("--block zen")
    assert error(host.configure, "sampler", "first", {}) == message
    assert host.clashes() == [message]
    assert host.names("sampler").count("first") == 1
    assert built_in_works(host)
    remaining = pp.Host(block=["zen"])
    assert remaining.clashes() == []
    assert remaining.component("sampler", "first").plugin.distribution == "acme"


def test_name_claimed_twice_under_one_entry_point_name(distribution: Install) -> None:
    distribution("acme", GOOD, entry_point="fast")
    distribution("zenith", GOOD, entry_point="fast")
    blocked = error(pp.Host().create, "sampler", "first").rpartition("--block ")[2]
    assert blocked in ("acme", "zenith")
    host = pp.Host(block=[blocked])
    assert "first" in host.names("sampler")
    assert host.clashes() == []


def test_built_in_name_cannot_be_replaced() -> None:
    host = host_with(lambda: [sampler("all")])
    assert error(host.create, "sampler", "all").endswith("--block mine")


def test_one_name_in_two_roles_is_no_clash() -> None:
    spec = pp.ScorerSpec(name="all", config=Config, create=lambda _: None, summary="")  # type: ignore[arg-type,return-value]
    host = host_with(lambda: [spec], "patchcore_scorers")
    assert host.clashes() == []
    assert host.component("scorer", "all").plugin.name == "mine"


# Creation


def test_options_reach_create() -> None:
    host = host_with(lambda: [sampler()])
    assert host.configure("sampler", "first", {"keep": "4"}) == Config(keep=4)
    assert select(host, keep=4) == [0, 1, 2, 3]
    assert host.build("sampler", "first", Config(keep=1))(torch.zeros(9, 1)).tolist() == [0]


def test_invalid_option_names_the_component() -> None:
    host = pp.Host(entry_points=False)
    message = error(host.create, "sampler", "greedy-coreset", kind=pp.OptionError, ratoi=0.1)
    assert message.startswith("sampler 'greedy-coreset'")
    assert "'ratio'" in message
    message = error(host.create, "aggregator", "average-pool", kind=pp.OptionError, patch_size=4)
    assert message == "aggregator 'average-pool': patch_size must be odd, got 4"


@dataclass(frozen=True, kw_only=True)
class Unchecked:
    host: pp.Host
    """Of a type that pydantic cannot check."""


@dataclass(frozen=True, kw_only=True)
class BrokenCheck:
    def __post_init__(self) -> None:
        raise TypeError("forgot a case")


def test_config_that_cannot_be_checked_names_the_plugin() -> None:
    host = host_with(lambda: [sampler("odd", config=Unchecked), sampler("broken", config=BrokenCheck)])
    message = error(host.create, "sampler", "odd", host=1)
    assert "sampler 'odd' of mine (- -)" in message
    assert "PydanticSchemaGenerationError" in message
    assert "\n" not in message
    assert "TypeError: forgot a case" in error(host.create, "sampler", "broken")


def host_creating(create: Callable[[Config], Any]) -> pp.Host:
    return host_with(lambda: [sampler(create=create)])


def test_create_that_raises() -> None:
    host = host_creating(lambda _: importlib.import_module("a_module_that_is_nowhere"))
    with pytest.raises(pp.PluginError, match=r"sampler 'first' of mine .*No module named") as caught:
        host.create("sampler", "first")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_error_of_a_plugin_is_passed_on() -> None:
    def refuse(config: Config) -> Any:
        raise pp.WeightsError("no weights; download them")

    message = error(host_creating(refuse).create, "sampler", "first", kind=pp.WeightsError)
    assert message == "no weights; download them"


@pytest.mark.parametrize(("result", "kind"), [(None, "NoneType"), ([1], "list")])
def test_create_that_returns_something_else(result: object, kind: str) -> None:
    message = error(host_creating(lambda _: result).create, "sampler", "first")
    assert f"create returned {kind}, which is not a Sampler" in message


def test_scorer_without_all_methods_is_refused() -> None:
    class Half:
        def fit(self, bank: pp.MemoryBank) -> None: ...

        def __call__(self, patches: pp.Patches) -> pp.Scores:
            raise NotImplementedError

    spec = pp.ScorerSpec(name="half", config=Config, create=lambda _: Half(), summary="half")  # type: ignore[arg-type,return-value]
    host = host_with(lambda: [spec], "patchcore_scorers")
    assert "returned Half" in error(host.create, "scorer", "half")


def test_components_work_together() -> None:
    host = pp.Host(entry_points=False)
    generator = torch.Generator().manual_seed(0)
    layer2, layer3 = (torch.rand(2, c, s, s, generator=generator) for c, s in ((12, 8), (20, 4)))
    patches = host.create("aggregator", "average-pool", patch_size=3, embed_dim=16)([layer2, layer3])
    assert patches.grid.shape == (2, 8, 8, 16)
    vectors = patches.grid.flatten(0, 2)
    index = host.create("sampler", "greedy-coreset", ratio=0.1, seed=0)(vectors)
    assert (index.dtype, len(index.unique())) == (torch.int64, 13)
    scorer = host.create("scorer", "knn", neighbours=9)
    origin = torch.stack([index // 64, index % 64 // 8, index % 8], dim=1)
    scorer.fit(pp.MemoryBank(vectors=vectors[index], origin=origin))
    scores = scorer(patches)
    assert scores.map is not None
    assert scores.nearest is not None
    assert scores.map.shape == scores.nearest.shape == (2, 8, 8)
    assert scores.map.flatten()[index].tolist() == [0.0] * 13


# Capabilities


def no_create(config: Any) -> Any:
    raise AssertionError("created to answer a question that the record answers")


@pytest.mark.parametrize(
    ("role", "name", "true"),
    [
        ("backbone", "resnet18", None),
        ("sampler", "all", "keeps_all"),
        ("sampler", "random", "reduces"),
        ("sampler", "greedy-coreset", "reduces"),
        ("scorer", "gaussian", "streaming"),
        *(("scorer", name, None) for name in ("faiss", "image-gaussian", "image-knn", "knn", "pyramid-knn")),
    ],
)
def test_capabilities_of_built_in_components_are_in_their_records(
    role: str, name: str, true: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = pp.Host(entry_points=False)
    config = host.configure(role, name, {})
    monkeypatch.setattr(pp.Component, "build", no_create)
    expected = pp.Capabilities(**{true: True} if true else {})
    assert host.capabilities(role, name, config) == expected


class Everything:
    reduction = None

    def __init__(self, config: Config) -> None:
        self.keeps_all = config.keep > 1

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.arange(len(vectors))


def test_capabilities_that_a_record_does_not_state_are_those_of_the_component() -> None:
    host = host_with(lambda: [sampler(create=Everything), sampler("stated", create=Everything, reduces=False)])
    for keep in (1, 2):
        config = Config(keep=keep)
        assert host.capabilities("sampler", "first", config) == pp.Capabilities(keeps_all=keep > 1, reduces=True)
        assert host.capabilities("sampler", "stated", config) == pp.Capabilities(keeps_all=keep > 1)


# The default host


def test_hosts_are_independent() -> None:
    first, second = host_with(lambda: [sampler()]), pp.Host(entry_points=False)
    assert "first" in first.names("sampler")
    assert second.names("sampler") == BUILT_IN["sampler"]
    global_objects = [
        f"{name}.{attribute}"
        for name, module in sys.modules.items()
        if name.startswith("patchcore_plugin")
        for attribute, value in vars(module).items()
        if isinstance(value, pluggy.PluginManager | pp.Host)
    ]
    assert global_objects == []


def test_default_host_is_shared_and_follows_the_environment(
    distribution: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pp.default_host()
    assert pp.default_host() is before
    assert pp.Host() is not before
    distribution("acme", GOOD)
    assert "first" in pp.default_host().names("sampler")
    monkeypatch.setenv("PATCHCORE_BLOCK_PLUGINS", "acme")
    assert found(pp.default_host(), "acme").status == "blocked"
    monkeypatch.delenv("PATCHCORE_BLOCK_PLUGINS")
    distribution("broken", "raise RuntimeError('no licence')")
    assert found(pp.default_host(), "broken").status == "failed"
    monkeypatch.setenv("PATCHCORE_STRICT_PLUGINS", "1")
    for _ in range(2):
        assert "no licence" in error(pp.default_host)
