"""The host: what it finds, what it says about what is broken, and how components are made."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin import hookspecs
from patchcore_plugin.specs import ROLES
from patchcore_plugin.testing import checks

Install = Callable[..., Path]

GOOD = """
    from dataclasses import dataclass
    import patchcore_plugin as pp

    @dataclass(frozen=True, kw_only=True)
    class Config:
        keep: int = 2

    def create(config):
        import torch
        return lambda vectors: torch.arange(config.keep)

    @pp.hookimpl
    def patchcore_samplers():
        return [pp.SamplerSpec(name="first", config=Config, create=create, summary="the first rows")]
"""
RECORD = 'pp.SamplerSpec(name="first", config=Config, create=create, summary="the first rows")'
BUILT_IN = {
    "backbone": [
        *("densenet201", "efficientnet_b4", "resnet101", "resnet18", "resnet50", "resnext101"),
        *("wide_resnet101", "wide_resnet50"),
    ],
    "aggregator": ["average-pool", "global-pool"],
    "sampler": ["all", "greedy-coreset", "random"],
    "scorer": ["faiss", "gaussian", "image-gaussian", "image-knn", "knn", "pyramid-knn"],
}


@dataclass(frozen=True, kw_only=True)
class Config:
    keep: int = 2


@dataclass(frozen=True, kw_only=True)
class Unspecific(pp.ComponentSpec):
    """A record of no role."""


def make(config: Config) -> pp.Sampler:
    def first(vectors: torch.Tensor) -> torch.Tensor:
        return torch.arange(config.keep)

    return first


def sampler(name: str = "first", **fields: Any) -> pp.SamplerSpec:
    return pp.SamplerSpec(**{"name": name, "config": Config, "create": make, "summary": "the first rows", **fields})


def plugin(records: Callable[[], Any], hook: str = "patchcore_samplers") -> object:
    """Return a plugin object with one hook."""

    def implementation() -> Any:
        return records()

    return SimpleNamespace(**{hook: pp.hookimpl(implementation, specname=hook)})


def found(host: pp.Host, name: str) -> pp.Plugin:
    (one,) = (each for each in host.plugins if each.name == name)
    return one


def built_in_works(host: pp.Host) -> bool:
    """Tell whether every built-in component is there and one of them can be made."""
    made = host.create("sampler", "all")(torch.zeros(3, 2))
    return made.tolist() == [0, 1, 2] and all(set(BUILT_IN[role]) <= set(host.names(role)) for role in ROLES)


def residue(host: pp.Host, name: str) -> list[object]:
    """Return what pluggy still knows of plugins of that name: registrations and hook implementations."""
    manager = host._manager
    names = [registered for registered, _ in manager.list_name_plugin() if registered.endswith(f":{name}")]
    hooks = [
        implementation
        for caller in vars(manager.hook).values()
        for implementation in caller.get_hookimpls()
        if implementation.plugin_name.endswith(f":{name}")
    ]
    return [*names, *hooks]


def error(call: Callable[..., Any], *args: Any, kind: type[Exception] = pp.PluginError, **kwargs: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is kind
    return str(caught.value)


# What is found


@pytest.mark.parametrize("role", ROLES)
def test_the_built_in_plugins_are_there(role: str) -> None:
    assert pp.Host(entry_points=False).names(role) == BUILT_IN[role]


def test_built_in_plugins_come_through_the_same_hooks() -> None:
    host = pp.Host(entry_points=False)
    assert {(each.distribution, each.status) for each in host.plugins} == {("patchcore-plugin", "loaded")}
    for role in ROLES:
        hook = getattr(host._manager.hook, f"patchcore_{role}s")
        assert sorted(spec.name for records in hook() for spec in records) == BUILT_IN[role]


def test_hosts_are_independent() -> None:
    first = pp.Host(entry_points=False, extra={"mine": plugin(lambda: [sampler()])})
    second = pp.Host(entry_points=False)
    first.plugins.clear()
    assert second.names("sampler") == BUILT_IN["sampler"]
    assert first._manager is not second._manager
    managers = [
        f"{name}.{attribute}"
        for name, module in sys.modules.items()
        if name.startswith("patchcore_plugin")
        for attribute, value in vars(module).items()
        if isinstance(value, pluggy.PluginManager | pp.Host)
    ]
    assert managers == []


def test_an_installed_distribution_is_found_and_used(distribution: Install) -> None:
    distribution("acme-samplers", GOOD, version="2.1", entry_point="acme")
    host = pp.Host()
    assert str(found(host, "acme")) == "acme (acme-samplers 2.1)"
    assert found(host, "acme").status == "loaded"
    component = host.component("sampler", "first")
    assert component.plugin is found(host, "acme")
    assert component.spec.summary == "the first rows"
    assert host.create("sampler", "first", keep=3)(torch.zeros(9, 1)).tolist() == [0, 1, 2]
    assert "first" not in pp.Host(entry_points=False).names("sampler")


# What is broken

BROKEN = {
    "import raises": (
        "import a_module_that_is_nowhere",
        "ModuleNotFoundError: No module named 'a_module_that_is_nowhere'",
    ),
    "import raises in lines": ("raise RuntimeError('first\\n   second')", "RuntimeError: first second"),
    "import exits": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "not Python": ("def", "SyntaxError: invalid syntax (acme.py, line 1)"),
    "a misspelt hook": (
        textwrap.dedent(GOOD) + "\n@pp.hookimpl\ndef patchcore_sampler():\n    return []\n",
        "unknown hook 'patchcore_sampler'; did you mean 'patchcore_samplers'? the hooks are: patchcore_backbones, "
        "patchcore_aggregators, patchcore_samplers, patchcore_scorers",
    ),
    "an unknown hook": (
        "import patchcore_plugin as pp\n@pp.hookimpl\ndef zzz():\n    return []\n",
        "unknown hook 'zzz'; the hooks are: patchcore_backbones, patchcore_aggregators, patchcore_samplers, "
        "patchcore_scorers",
    ),
    "no hooks": ("X = 1", "it has no hooks; mark a function such as patchcore_samplers with hookimpl"),
    "a hook without the marker": (
        GOOD.replace("@pp.hookimpl", ""),
        "it has no hooks; mark a function such as patchcore_samplers with hookimpl",
    ),
    "a generator": (GOOD.replace("return [pp", "yield [pp"), "patchcore_samplers must return a list, got generator"),
    "a tuple": (
        GOOD.replace(f"[{RECORD}]", f"({RECORD},)"),
        "patchcore_samplers must return a list, got tuple",
    ),
    "nothing": (GOOD.replace(f"[{RECORD}]", "None"), "patchcore_samplers must return a list, got NoneType"),
    "no record": (GOOD.replace(RECORD, "create"), "patchcore_samplers must return SamplerSpec records, got function"),
    "a record of no role": (
        GOOD.replace("pp.SamplerSpec", "pp.ComponentSpec"),
        "patchcore_samplers must return SamplerSpec records, got ComponentSpec",
    ),
    "a record of another role": (
        GOOD.replace("pp.SamplerSpec", "pp.ScorerSpec"),
        "patchcore_samplers must return SamplerSpec records, got ScorerSpec",
    ),
    "a newer contract": (
        GOOD.replace('rows")', f'rows", contract={pp.CONTRACT_VERSION + 1})'),
        "sampler 'first' is written for contract 2, this host speaks 1; upgrade patchcore-plugin",
    ),
    "a bad name": (
        GOOD.replace('"first"', '"First one"'),
        "sampler 'First one': a name is lower-case words joined by '-', '_' or '.'",
    ),
    "no dataclass": (
        GOOD.replace("@dataclass(frozen=True, kw_only=True)", ""),
        "sampler 'first': config must be a dataclass",
    ),
    "an instance as config": (
        GOOD.replace("config=Config", "config=Config()"),
        "sampler 'first': config must be a dataclass",
    ),
    "a hook that raises": (GOOD.replace(f"[{RECORD}]", "1 / 0"), "ZeroDivisionError: division by zero"),
    "a missing field": (
        GOOD.replace(', summary="the first rows"', ""),
        "TypeError: SamplerSpec.__init__() missing 1 required keyword-only argument: 'summary'",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_distribution_is_remembered_and_all_else_works(what: str, distribution: Install) -> None:
    source, reason = BROKEN[what]
    distribution("acme", source, version="0.3")
    distribution("sound", GOOD.replace('"first"', '"sound"'))
    host = pp.Host()
    broken = found(host, "acme")
    assert (broken.status, broken.distribution, broken.version) == ("failed", "acme", "0.3")
    assert broken.reason == reason
    assert broken.records == ()
    assert "first" not in host.names("sampler")
    assert host.create("sampler", "sound")(torch.zeros(9, 1)).tolist() == [0, 1]
    assert built_in_works(host)
    assert residue(host, "acme") == []
    assert len(residue(host, "sound")) == 2  # what is looked for is what pluggy has of a sound one


def test_a_hook_with_arguments_is_refused() -> None:
    def patchcore_samplers(count: int) -> list[pp.SamplerSpec]:
        return [sampler()] * count

    broken = SimpleNamespace(patchcore_samplers=pp.hookimpl(patchcore_samplers))
    host = pp.Host(entry_points=False, extra={"greedy": broken})
    assert found(host, "greedy").status == "failed"
    assert "count" in found(host, "greedy").reason
    assert "\n" not in found(host, "greedy").reason
    assert residue(host, "greedy") == []


def test_one_bad_record_keeps_the_good_ones_of_its_plugin_out() -> None:
    host = pp.Host(entry_points=False, extra={"mixed": plugin(lambda: [sampler(), sampler("BAD")])})
    assert found(host, "mixed").status == "failed"
    assert host.names("sampler") == BUILT_IN["sampler"]
    assert residue(host, "mixed") == []


def test_a_plugin_of_several_roles() -> None:
    @pp.hookimpl
    def patchcore_samplers() -> list[pp.SamplerSpec]:
        return [sampler()]

    @pp.hookimpl
    def patchcore_scorers() -> list[pp.ScorerSpec]:
        return []

    both = SimpleNamespace(patchcore_samplers=patchcore_samplers, patchcore_scorers=patchcore_scorers)
    host = pp.Host(entry_points=False, extra={"both": both})
    assert [spec.name for spec in found(host, "both").records] == ["first"]


def test_an_optional_hook_of_another_contract_is_passed_over() -> None:
    def patchcore_calibrators() -> list[object]:
        return []

    def patchcore_samplers() -> list[pp.SamplerSpec]:
        return [sampler()]

    ahead = SimpleNamespace(
        patchcore_calibrators=pp.hookimpl(patchcore_calibrators, optionalhook=True),
        patchcore_samplers=pp.hookimpl(patchcore_samplers),
    )
    host = pp.Host(entry_points=False, extra={"ahead": ahead})
    assert found(host, "ahead").status == "loaded"
    assert "first" in host.names("sampler")


@pytest.mark.parametrize("name", ["every-n", "wide_resnet50", "tf_efficientnet.ns", "x", "dinov2-vit.s14"])
def test_names_that_are_allowed(name: str) -> None:
    host = pp.Host(entry_points=False, extra={"mine": plugin(lambda: [sampler(name)])})
    assert host.create("sampler", name)(torch.zeros(9, 1)).tolist() == [0, 1]


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a-", "a--b", "a/b", "ä", "a=b", "a\n"])
def test_names_that_are_not_allowed(name: str) -> None:
    host = pp.Host(entry_points=False, extra={"mine": plugin(lambda: [sampler(name)])})
    assert found(host, "mine").status == "failed"


def test_a_distribution_without_metadata_does_no_harm(distribution: Install) -> None:
    folder = distribution("acme", GOOD)
    (metadata,) = folder.glob("*.dist-info/METADATA")
    metadata.unlink()
    host = pp.Host()
    assert str(found(host, "acme")) == "acme (? ?)"
    assert "first" in host.names("sampler")


def test_one_module_under_two_entry_points_counts_once(distribution: Install) -> None:
    folder = distribution("acme", GOOD)
    (points,) = folder.glob("*.dist-info/entry_points.txt")
    points.write_text("[patchcore_plugin]\nacme = acme\nagain = acme\n", encoding="utf-8")
    host = pp.Host()
    assert found(host, "acme").status == "loaded"
    assert found(host, "again").status == "failed"
    assert host.create("sampler", "first")(torch.zeros(9, 1)).tolist() == [0, 1]


# Blocking, strictness


LOUD = 'import os\nos.environ["ACME_WAS_IMPORTED"] = "yes"\n' + textwrap.dedent(GOOD)


@pytest.mark.parametrize("name", ["acme", "acme-samplers", "Acme_Samplers"])
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_what_is_blocked_is_never_imported(
    name: str, by: str, distribution: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_WAS_IMPORTED", "no")
    distribution("acme-samplers", LOUD, entry_point="acme")
    if by == "argument":
        host = pp.Host(block=[name])
    else:
        monkeypatch.setenv("PATCHCORE_BLOCK_PLUGINS", f"something-else, {name} ,")
        host = pp.Host()
    assert "acme_samplers" not in sys.modules
    assert os.environ["ACME_WAS_IMPORTED"] == "no"
    blocked = found(host, "acme")
    assert (blocked.status, blocked.reason) == ("blocked", "blocked by name")
    assert (blocked.distribution, blocked.version) == ("acme-samplers", "1.0")
    assert "first" not in host.names("sampler")
    assert built_in_works(host)

    monkeypatch.delenv("PATCHCORE_BLOCK_PLUGINS", raising=False)
    assert "first" in pp.Host().names("sampler")
    assert os.environ["ACME_WAS_IMPORTED"] == "yes"  # so what was looked for above is what an import leaves


def test_without_entry_points_nothing_is_imported(distribution: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_WAS_IMPORTED", "no")
    distribution("acme-samplers", LOUD)
    pp.Host(entry_points=False)
    assert os.environ["ACME_WAS_IMPORTED"] == "no"


def test_built_in_and_extra_plugins_can_be_blocked() -> None:
    host = pp.Host(entry_points=False, block=["knn", "mine"], extra={"mine": plugin(lambda: [sampler()])})
    assert host.names("scorer") == [name for name in BUILT_IN["scorer"] if name != "knn"]
    assert found(host, "mine").status == "blocked"
    assert error(host.create, "scorer", "knn") == (
        f"unknown scorer 'knn'; available: {', '.join(host.names('scorer'))}; not loaded: knn (patchcore-plugin "
        f"{found(host, 'knn').version}): blocked by name; mine (- -): blocked by name"
    )


def test_strict_raises_what_went_wrong(distribution: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution("acme", "import a_module_that_is_nowhere")
    with pytest.raises(pp.PluginError, match=r"acme.*ModuleNotFoundError: No module named 'a_module_that_is_nowhere'"):
        pp.Host(strict=True)
    monkeypatch.setenv("PATCHCORE_STRICT_PLUGINS", "1")
    with pytest.raises(pp.PluginError, match=r"acme.*ModuleNotFoundError: No module named 'a_module_that_is_nowhere'"):
        pp.Host()
    assert found(pp.Host(strict=False), "acme").status == "failed"
    monkeypatch.setenv("PATCHCORE_STRICT_PLUGINS", "0")
    assert found(pp.Host(), "acme").status == "failed"


# Look-up


def test_an_unknown_name_lists_choices_and_what_was_not_loaded(distribution: Install) -> None:
    distribution("acme", "raise RuntimeError('no licence')", version="3.0")
    host = pp.Host(block=["efficientnet-lite"])
    lite = found(host, "efficientnet-lite")
    missing = f"not loaded: acme (acme 3.0): RuntimeError: no licence; {lite}: blocked by name"
    assert error(host.component, "sampler", "greedy-corset") == (
        "unknown sampler 'greedy-corset'; did you mean 'greedy-coreset'? "
        f"available: {', '.join(host.names('sampler'))}; {missing}"
    )
    assert error(host.create, "sampler", "zzz") == (
        f"unknown sampler 'zzz'; available: {', '.join(host.names('sampler'))}; {missing}"
    )
    assert error(pp.Host(entry_points=False).create, "sampler", "zzz") == (
        f"unknown sampler 'zzz'; available: {', '.join(BUILT_IN['sampler'])}"
    )


def test_an_unknown_role() -> None:
    message = "unknown role 'sampelr'; the roles are: backbone, aggregator, sampler, scorer"
    host = pp.Host(entry_points=False)
    assert error(host.names, "sampelr") == message
    assert error(host.component, "sampelr", "all") == message
    assert error(host.create, "sampelr", "all") == message


def test_a_name_claimed_twice(distribution: Install) -> None:
    distribution("acme", GOOD, version="1.2")
    distribution("zenith", GOOD, version="3.4", entry_point="zen")
    host = pp.Host()
    message = (
        "sampler 'first' is claimed by acme (acme 1.2) and zen (zenith 3.4); block one of them, "
        "for example with --block zen"
    )
    assert error(host.create, "sampler", "first") == message
    assert error(host.configure, "sampler", "first", {}) == message
    assert host.clashes() == [message]
    assert host.names("sampler").count("first") == 1
    assert built_in_works(host)
    way_out = pp.Host(block=["zen"])
    assert way_out.clashes() == []
    assert way_out.component("sampler", "first").plugin.distribution == "acme"


def test_a_name_claimed_twice_under_one_entry_point_name(distribution: Install) -> None:
    distribution("acme", GOOD, entry_point="fast")
    distribution("zenith", GOOD, entry_point="fast")
    message = error(pp.Host().create, "sampler", "first")
    way_out = message.rpartition("--block ")[2]
    assert way_out in ("acme", "zenith")
    assert "first" in pp.Host(block=[way_out]).names("sampler")
    assert pp.Host(block=[way_out]).clashes() == []


def test_a_built_in_name_cannot_be_taken_silently() -> None:
    host = pp.Host(entry_points=False, extra={"mine": plugin(lambda: [sampler("all")])})
    version = found(host, "knn").version
    assert error(host.create, "sampler", "all") == (
        f"sampler 'all' is claimed by simple-samplers (patchcore-plugin {version}) and mine (- -); "
        "block one of them, for example with --block mine"
    )


def test_one_name_in_two_roles_is_no_clash() -> None:
    host = pp.Host(
        entry_points=False,
        extra={
            "mine": plugin(
                lambda: [pp.ScorerSpec(name="all", config=Config, create=lambda _: None, summary="")],  # type: ignore[arg-type,return-value]
                "patchcore_scorers",
            )
        },
    )
    assert host.clashes() == []
    assert host.component("scorer", "all").plugin.name == "mine"


# Options and making


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
    host = pp.Host(entry_points=False, extra={"mine": plugin(lambda: [sampler()])})
    assert host.configure("sampler", "first", {"keep": "4"}) == Config(keep=4)
    assert host.create("sampler", "first", keep=4)(torch.zeros(9, 1)).tolist() == [0, 1, 2, 3]
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
    host = pp.Host(entry_points=False, extra={"mine": plugin(lambda: records)})
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
    return pp.Host(entry_points=False, extra={"mine": plugin(lambda: [sampler(create=create)])})


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
        f"sampler 'first' of mine (- -): create returned {kind}, which is no Sampler; see patchcore_plugin.roles"
    )


def test_a_half_scorer_is_no_scorer() -> None:
    class Half:
        def fit(self, bank: pp.MemoryBank) -> None: ...

        def __call__(self, patches: pp.Patches) -> pp.Scores:
            raise NotImplementedError

    spec = pp.ScorerSpec(name="half", config=Config, create=lambda _: Half(), summary="half")  # type: ignore[arg-type,return-value]
    host = pp.Host(entry_points=False, extra={"mine": plugin(lambda: [spec], "patchcore_scorers")})
    assert error(host.create, "scorer", "half") == (
        "scorer 'half' of mine (- -): create returned Half, which is no Scorer; see patchcore_plugin.roles"
    )


# The API and the documentation


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


def documented_plugin(hook: str, folder: Path) -> Any:
    """Import the module that a hook's docstring shows."""
    doc = inspect.getdoc(getattr(hookspecs, hook)) or ""
    _, marker, code = doc.partition("A complete plugin::\n")
    assert marker, f"{hook} shows no plugin"
    path = folder / f"documented_{hook}.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # or nobody can read the docstrings of its options
    spec.loader.exec_module(module)
    return module


def host_of(module: Any) -> pp.Host:
    host = pp.Host(entry_points=False, extra={"documented": module})
    assert found(host, "documented").reason == ""
    return host


@pytest.mark.parametrize("role", ROLES)
def test_the_documented_plugins_conform(role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    found = checks(documented_plugin(f"patchcore_{role}s", tmp_path))
    assert found
    for check in found:
        check()


def test_every_hook_is_tested_below() -> None:
    assert [name for name in dir(hookspecs) if name.startswith("patchcore_")] == sorted(
        f"patchcore_{role}s" for role in ROLES
    )


def test_the_documented_backbone(tmp_path: Path) -> None:
    host = host_of(documented_plugin("patchcore_backbones", tmp_path))
    backbone = host.create("backbone", "colours", stride=4)
    images = torch.rand(2, 3, 16, 24)
    (only,) = backbone.to("cpu")(images)
    assert only.shape == (2, 3, 4, 6)
    assert torch.allclose(only[0, :, 0, 0], images[0, :, :4, :4].mean(dim=(1, 2)))
    assert len(backbone.weight_hash()) == 64
    assert (backbone.mean, backbone.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_the_documented_aggregator(tmp_path: Path) -> None:
    host = host_of(documented_plugin("patchcore_aggregators", tmp_path))
    finest = torch.rand(2, 5, 4, 6)
    patches = host.create("aggregator", "finest")([finest, torch.rand(2, 7, 2, 3)])
    assert patches.grid.shape == (2, 4, 6, 5)
    assert torch.equal(patches.grid[1, 2, 3], finest[1, :, 2, 3])


def test_the_documented_sampler(tmp_path: Path) -> None:
    host = host_of(documented_plugin("patchcore_samplers", tmp_path))
    assert host.create("sampler", "every", step=4)(torch.rand(10, 3)).tolist() == [0, 4, 8]


def test_the_documented_scorer(tmp_path: Path) -> None:
    host = host_of(documented_plugin("patchcore_scorers", tmp_path))
    bank = pp.MemoryBank(vectors=torch.tensor([[0.0, 0.0], [2.0, 0.0]]), origin=torch.zeros(2, 3, dtype=torch.int64))
    patches = pp.Patches(grid=torch.tensor([1.0, 3.0]).expand(1, 2, 3, 2))
    scorer, restored = host.create("scorer", "mean"), host.create("scorer", "mean")
    scorer.fit(bank)
    restored.restore(bank, scorer.state())
    for each in (scorer, restored):
        scores = each(patches)
        assert scores.image.tolist() == [3.0]
        assert scores.map is not None
        assert scores.map.tolist() == [[[3.0] * 3] * 2]


def test_documented_options_have_a_meaning() -> None:
    """A user who asks for a component's options reads what each is for."""
    from patchcore_plugin.options import describe

    host = pp.Host()
    for component in host.components():
        options = describe(component.spec.config)
        assert [each.name for each in options] == [field.name for field in fields(component.spec.config)]
        assert all(each.meaning for each in options), component.spec.name
