"""Discovery: blocking, broken plugins, and hooks through pluggy."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any

import pytest

import patchcore_plugin as pp
from patchcore_plugin.plugins.discovery import OWN_DISTRIBUTION
from tests.plugins.fake_plugins import (
    BUILT_IN,
    GOOD,
    MISSPELT_REASON,
    RECORD,
    Install,
    built_in_works,
    error,
    found,
    host_with,
    plugin,
    sampler,
    select,
)

# Broken plugins

BROKEN = {
    "import raises": (
        "import a_module_that_is_nowhere",
        "ModuleNotFoundError: No module named 'a_module_that_is_nowhere'",
    ),
    "message of several lines": ("raise RuntimeError('first\\n   second')", "RuntimeError: first second"),
    "import exits": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "not Python": ("def", "SyntaxError"),
    "misspelt hook": (
        textwrap.dedent(GOOD) + "\n@pp.hookimpl\ndef patchcore_sampler():\n    return []\n",
        MISSPELT_REASON,
    ),
    "unknown hook": (
        "import patchcore_plugin as pp\n@pp.hookimpl\ndef zzz():\n    return []\n",
        "'zzz'; the hooks are",
    ),
    "no hooks": ("X = 1", "no hooks"),
    "hook without the marker": (GOOD.replace("@pp.hookimpl", ""), "patchcore_samplers is not marked"),
    "one hook of two without the marker": (
        textwrap.dedent(GOOD) + "\ndef patchcore_scorers():\n    return []\n",
        "patchcore_scorers is not marked",
    ),
    "one hook twice": (
        textwrap.dedent(GOOD) + "\n@pp.hookimpl(specname='patchcore_samplers')\ndef more():\n    return []\n",
        "implements patchcore_samplers twice",
    ),
    "generator": (GOOD.replace("return [pp", "yield [pp"), "must return a list, got generator"),
    "tuple": (GOOD.replace(f"[{RECORD}]", f"({RECORD},)"), "must return a list, got tuple"),
    "None": (GOOD.replace(f"[{RECORD}]", "None"), "must return a list, got NoneType"),
    "not a record": (GOOD.replace(RECORD, "create"), "must return SamplerSpec records, got function"),
    "record without a role": (GOOD.replace("pp.SamplerSpec", "pp.ComponentSpec"), "got ComponentSpec"),
    "record of another role": (GOOD.replace("pp.SamplerSpec", "pp.ScorerSpec"), "got ScorerSpec"),
    "newer contract": (
        GOOD.replace('rows")', f'rows", contract={pp.CONTRACT_VERSION + 1})'),
        "upgrade patchcore-plugin",
    ),
    "bad name": (GOOD.replace('"first"', '"First one"'), "a name is lower-case words"),
    "no dataclass": (GOOD.replace("@dataclass(frozen=True, kw_only=True)", ""), "config must be a dataclass"),
    "instance as config": (GOOD.replace("config=Config", "config=Config()"), "config must be a dataclass"),
    "hook raises": (GOOD.replace(f"[{RECORD}]", "1 / 0"), "ZeroDivisionError: division by zero"),
    "hook exits": (GOOD.replace(f"[{RECORD}]", "exit(1)"), "SystemExit: 1"),
    "missing field": (GOOD.replace(', summary="the first rows"', ""), "'summary'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_distribution_is_listed_and_all_others_work(case: str, distribution: Install) -> None:
    source, reason = BROKEN[case]
    distribution("acme", source, version="0.3")
    distribution("sound", GOOD.replace('"first"', '"sound"'))
    host = pp.Host()
    broken = found(host, "acme")
    assert (broken.status, broken.distribution, broken.version) == ("failed", "acme", "0.3")
    assert reason in broken.reason
    assert "\n" not in broken.reason
    assert broken.records == ()
    assert "first" not in host.names("sampler")
    assert select(host, "sound") == [0, 1]
    assert built_in_works(host)


def test_hook_with_arguments_is_refused() -> None:
    def patchcore_samplers(count: int) -> list[pp.SamplerSpec]:
        return [sampler()] * count

    broken = SimpleNamespace(patchcore_samplers=pp.hookimpl(patchcore_samplers))
    host = pp.Host(entry_points=False, extra={"greedy": broken, "sound": plugin(lambda: [sampler()])})
    assert found(host, "greedy").status == "failed"
    assert "count" in found(host, "greedy").reason
    assert select(host) == [0, 1]


def test_one_bad_record_excludes_the_whole_plugin() -> None:
    def patchcore_samplers() -> list[pp.SamplerSpec]:
        return [sampler()]

    def patchcore_scorers() -> list[Any]:
        return [sampler()]

    mixed = SimpleNamespace(
        patchcore_samplers=pp.hookimpl(patchcore_samplers), patchcore_scorers=pp.hookimpl(patchcore_scorers)
    )
    for bad in (mixed, plugin(lambda: [sampler(), sampler("BAD")])):
        host = pp.Host(entry_points=False, extra={"mine": bad})
        assert found(host, "mine").status == "failed"
        assert found(host, "mine").records == ()
        assert host.names("sampler") == BUILT_IN["sampler"]


def test_optional_hook_of_another_contract_is_ignored() -> None:
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
def test_valid_names(name: str) -> None:
    assert select(host_with(lambda: [sampler(name)]), name) == [0, 1]


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a-", "a--b", "a/b", "ä", "a=b", "a\n"])
def test_invalid_names(name: str) -> None:
    mine = found(host_with(lambda: [sampler(name)]), "mine")
    assert mine.status == "failed"
    assert repr(name) in mine.reason


def test_distribution_without_metadata_is_loaded(distribution: Install) -> None:
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
    assert "already registered as 'acme'" in found(host, "again").reason
    assert select(host) == [0, 1]


# Blocking, strictness

LOUD = 'import os\nos.environ["ACME_WAS_IMPORTED"] = "yes"\n' + textwrap.dedent(GOOD)


@pytest.mark.parametrize(
    ("name", "by"),
    [("acme", "argument"), ("acme-samplers", "argument"), ("Acme_Samplers", "argument"), ("acme", "environment")],
)
def test_blocked_plugin_is_never_imported(
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
    assert (blocked.status, blocked.distribution, blocked.version) == ("blocked", "acme-samplers", "1.0")
    assert "blocked" in blocked.reason
    assert "first" not in host.names("sampler")
    assert built_in_works(host)

    monkeypatch.delenv("PATCHCORE_BLOCK_PLUGINS", raising=False)
    assert "first" in pp.Host().names("sampler")
    assert os.environ["ACME_WAS_IMPORTED"] == "yes"  # an import would have left this trace above


def test_without_entry_points_nothing_is_imported(distribution: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_WAS_IMPORTED", "no")
    distribution("acme-samplers", LOUD)
    pp.Host(entry_points=False)
    assert os.environ["ACME_WAS_IMPORTED"] == "no"


@pytest.mark.parametrize(("block", "hint"), [("acme-sampler", "'acme-samplers'"), ("zzz", "is installed")])
@pytest.mark.parametrize("entry_points", [True, False])
def test_misspelt_name_to_block_is_refused_before_any_import(
    block: str, hint: str, *, entry_points: bool, distribution: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_WAS_IMPORTED", "no")
    distribution("acme-samplers", LOUD, entry_point="acme")
    message = error(lambda: pp.Host(block=iter([block]), entry_points=entry_points))
    assert repr(block) in message
    assert hint in message
    assert os.environ["ACME_WAS_IMPORTED"] == "no"


def test_strict_raises_the_failure_of_a_plugin(distribution: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution("acme", "import a_module_that_is_nowhere")
    with pytest.raises(pp.PluginError, match=r"acme.*No module named 'a_module_that_is_nowhere'") as caught:
        pp.Host(strict=True)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    monkeypatch.setenv("PATCHCORE_STRICT_PLUGINS", "1")
    with pytest.raises(pp.PluginError, match="acme"):
        pp.Host()
    assert found(pp.Host(strict=False), "acme").status == "failed"
    monkeypatch.setenv("PATCHCORE_STRICT_PLUGINS", "0")
    assert found(pp.Host(), "acme").status == "failed"


# Hooks through pluggy

Wrapper = Callable[[], Generator[None, Any, Any]]


def wrapping(wrapper: Wrapper, **old: bool) -> object:
    """Return a plugin that wraps the hook of samplers."""
    options = old or {"wrapper": True}
    return SimpleNamespace(patchcore_samplers=pp.hookimpl(wrapper, specname="patchcore_samplers", **options))


def without_random() -> Generator[None, Any, Any]:
    lists = yield
    return [[record for record in records if record.name != "random"] for records in lists]


def test_wrapper_applies_to_all_plugins() -> None:
    extra = {"filter": wrapping(without_random), "mine": plugin(lambda: [sampler()])}
    host = pp.Host(entry_points=False, extra=extra)
    assert host.names("sampler") == ["all", "first", "greedy-coreset"]
    assert found(host, "filter").status == "loaded"
    assert [spec.name for spec in found(host, "simple-samplers").records] == ["all"]


def test_old_style_wrapper_applies_to_all_plugins() -> None:
    def without_random_by_result() -> Generator[None, Any, Any]:
        outcome = yield
        outcome.force_result([[each for each in records if each.name != "random"] for records in outcome.get_result()])

    host = pp.Host(entry_points=False, extra={"filter": wrapping(without_random_by_result, hookwrapper=True)})
    assert host.names("sampler") == ["all", "greedy-coreset"]


def raising() -> Generator[None, Any, Any]:
    yield
    raise RuntimeError("no licence")


def without_result() -> Generator[None, Any, Any]:
    yield


@pytest.mark.parametrize(("wrapper", "reason"), [(raising, "no licence"), (without_result, "must return a list")])
def test_broken_wrapper_fails_alone(wrapper: Wrapper, reason: str) -> None:
    extra = {
        "broken": wrapping(wrapper),
        "filter": wrapping(without_random),
        "mine": plugin(lambda: [sampler()]),
        "bad": plugin(lambda: None),
    }
    host = pp.Host(entry_points=False, extra=extra)
    status = {each.name: each.status for each in host.plugins if each.distribution == "-"}
    assert status == {"broken": "failed", "filter": "loaded", "mine": "loaded", "bad": "failed"}
    assert reason in found(host, "broken").reason
    assert host.names("sampler") == ["all", "first", "greedy-coreset"]


def test_tryfirst_and_trylast_order_components() -> None:
    extra = {
        "last": plugin(lambda: [sampler("c")], trylast=True),
        "plain": plugin(lambda: [sampler("b")]),
        "first": plugin(lambda: [sampler("a")], tryfirst=True),
    }
    host = pp.Host(entry_points=False, extra=extra)
    names = [component.spec.name for component in host.components("sampler")]
    assert names == ["a", "greedy-coreset", "random", "all", "b", "c"]
    assert [each.name for each in host.plugins if each.distribution == "-"] == ["last", "plain", "first"]


def test_hook_calls_are_traced() -> None:
    lines: list[str] = []
    pp.Host(entry_points=False, extra={"mine": plugin(lambda: [sampler("acme-sampler")])}, trace=lines.append)
    assert any("patchcore_backbones" in line for line in lines)
    assert any("acme-sampler" in line for line in lines)


def test_objects_with_methods_as_hooks() -> None:
    class Mine:
        @pp.hookimpl
        def patchcore_samplers(self) -> list[pp.SamplerSpec]:
            return [sampler()]

    host = pp.Host(entry_points=False, extra={"mine": Mine()})
    assert host.component("sampler", "first").plugin.distribution != OWN_DISTRIBUTION
