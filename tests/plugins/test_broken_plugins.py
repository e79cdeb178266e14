"""Broken plugins: each is remembered with its reason, and everything else works."""

from __future__ import annotations

import textwrap
from types import SimpleNamespace

import pytest

import patchcore_plugin as pp
from tests.plugins.fake_plugins import (
    BUILT_IN,
    GOOD,
    MISSPELT_REASON,
    RECORD,
    Install,
    built_in_works,
    found,
    host_with,
    kept,
    plugin,
    sampler,
)

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
        MISSPELT_REASON,
    ),
    "an unknown hook": (
        "import patchcore_plugin as pp\n@pp.hookimpl\ndef zzz():\n    return []\n",
        "unknown hook 'zzz'; the hooks are: patchcore_backbones, patchcore_aggregators, patchcore_samplers, "
        "patchcore_scorers",
    ),
    "no hooks": ("X = 1", "it has no hooks; mark a function such as patchcore_samplers with hookimpl"),
    "a hook without the marker": (
        GOOD.replace("@pp.hookimpl", ""),
        "patchcore_samplers is not marked as a hook; write @patchcore_plugin.hookimpl above it",
    ),
    "one hook of two without the marker": (
        textwrap.dedent(GOOD) + "\ndef patchcore_scorers():\n    return []\n",
        "patchcore_scorers is not marked as a hook; write @patchcore_plugin.hookimpl above it",
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
        f"sampler 'first' is written for contract {pp.CONTRACT_VERSION + 1}, this host speaks {pp.CONTRACT_VERSION}; "
        "upgrade patchcore-plugin",
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
    assert kept(host, "sound") == [0, 1]
    assert built_in_works(host)


def test_a_hook_with_arguments_is_refused() -> None:
    def patchcore_samplers(count: int) -> list[pp.SamplerSpec]:
        return [sampler()] * count

    broken = SimpleNamespace(patchcore_samplers=pp.hookimpl(patchcore_samplers))
    host = pp.Host(entry_points=False, extra={"greedy": broken, "sound": plugin(lambda: [sampler()])})
    assert found(host, "greedy").status == "failed"
    assert "count" in found(host, "greedy").reason
    assert "\n" not in found(host, "greedy").reason
    assert kept(host) == [0, 1]


def test_one_bad_record_keeps_the_good_ones_of_its_plugin_out() -> None:
    host = host_with(lambda: [sampler(), sampler("BAD")])
    assert found(host, "mine").status == "failed"
    assert found(host, "mine").records == ()
    assert host.names("sampler") == BUILT_IN["sampler"]


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


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a-", "a--b", "a/b", "ä", "a=b", "a\n"])
def test_names_that_are_not_allowed(name: str) -> None:
    mine = found(host_with(lambda: [sampler(name)]), "mine")
    assert mine.status == "failed"
    assert mine.reason == f"sampler {name!r}: a name is lower-case words joined by '-', '_' or '.'"
