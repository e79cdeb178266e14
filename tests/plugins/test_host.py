"""The host: what it finds, what it is kept from finding, and what it says when it is asked for what is not there."""

from __future__ import annotations

import os
import sys
import textwrap
from types import SimpleNamespace

import pluggy
import pytest

import patchcore_plugin as pp
from patchcore_plugin.plugins import builtin, hookspecs
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
    kept,
    sampler,
)

# What is found


@pytest.mark.parametrize("role", ROLES)
def test_the_built_in_plugins_are_there(role: str) -> None:
    assert pp.Host(entry_points=False).names(role) == BUILT_IN[role]


def test_built_in_plugins_come_through_the_same_hooks() -> None:
    host = pp.Host(entry_points=False)
    assert {(each.distribution, each.status) for each in host.plugins} == {("patchcore-plugin", "loaded")}
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for module in builtin.PLUGINS.values():
        manager.register(module)
    for role in ROLES:
        hook = getattr(manager.hook, f"patchcore_{role}s")
        assert sorted(spec.name for records in hook() for spec in records) == BUILT_IN[role]


def test_hosts_are_independent() -> None:
    first, second = host_with(lambda: [sampler()]), pp.Host(entry_points=False)
    assert "first" in first.names("sampler")
    assert second.names("sampler") == BUILT_IN["sampler"]
    first.plugins.clear()
    assert second.names("sampler") == BUILT_IN["sampler"]
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
    assert kept(host, keep=3) == [0, 1, 2]
    assert "first" not in pp.Host(entry_points=False).names("sampler")


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


@pytest.mark.parametrize("name", ["every-n", "wide_resnet50", "tf_efficientnet.ns", "x", "dinov2-vit.s14"])
def test_names_that_are_allowed(name: str) -> None:
    assert kept(host_with(lambda: [sampler(name)]), name) == [0, 1]


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
    assert "already registered" in found(host, "again").reason
    assert kept(host) == [0, 1]


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


@pytest.mark.parametrize(("block", "hint"), [("acme-sampler", "did you mean 'acme-samplers'? "), ("zzz", "")])
@pytest.mark.parametrize("entry_points", [True, False])
def test_a_misspelt_name_is_told_before_anything_is_imported(
    block: str, hint: str, *, entry_points: bool, distribution: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_WAS_IMPORTED", "no")
    distribution("acme-samplers", LOUD, entry_point="acme")
    message = error(lambda: pp.Host(block=iter([block]), entry_points=entry_points))
    assert message == (
        f"cannot block {block!r}: no plugin or distribution of that name is installed; {hint}"
        "'patchcore plugins list' has them all"
    )
    assert os.environ["ACME_WAS_IMPORTED"] == "no"


def test_built_in_and_extra_plugins_can_be_blocked() -> None:
    host = host_with(lambda: [sampler()], block=["knn", "mine"])
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
    host = host_with(lambda: [sampler("all")])
    version = found(host, "knn").version
    assert error(host.create, "sampler", "all") == (
        f"sampler 'all' is claimed by simple-samplers (patchcore-plugin {version}) and mine (- -); "
        "block one of them, for example with --block mine"
    )


def test_one_name_in_two_roles_is_no_clash() -> None:
    spec = pp.ScorerSpec(name="all", config=Config, create=lambda _: None, summary="")  # type: ignore[arg-type,return-value]
    host = host_with(lambda: [spec], "patchcore_scorers")
    assert host.clashes() == []
    assert host.component("scorer", "all").plugin.name == "mine"
