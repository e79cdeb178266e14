"""`patchcore plugins list` and `show`, and plugins that are broken, blocked or in conflict."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from patchcore_plugin.kernels.backend import describe
from patchcore_plugin.plugins.builtin import PLUGINS
from patchcore_plugin.plugins.specs import ROLES
from tests.commands import SMALL, patchcore, run_command, run_failing, run_json
from tests.plugins.fake_plugins import ALSO_ALL, BROKEN, MISSPELT, Install

FEW = [word for name in PLUGINS if name != "simple-samplers" for word in ("--block", name)]
"""Options that leave out most of the built-in plugins, whose checks are slow."""
FIELDS = ["role", "name", "distribution", "version", "plugin", "status", "summary"]


@pytest.fixture
def broken(distribution: Install) -> None:
    """Install a plugin that raises, and one with a misspelt hook."""
    distribution("acme", BROKEN, version="1.5")
    distribution("zenith", MISSPELT, version="2.5", entry_point="zen")


def test_list() -> None:
    rows = run_json("plugins", "list")
    assert all(list(row) == FIELDS for row in rows)
    assert {row["status"] for row in rows} == {"loaded"}
    roles = [row["role"] for row in rows]
    assert roles == sorted(roles, key=list(ROLES).index)
    lite = next(row for row in rows if row["name"] == "efficientnet-lite0")
    assert (lite["distribution"], lite["plugin"]) == ("patchcore-efficientnet-lite", "efficientnet-lite")
    table = run_command("plugins", "list").out
    assert re.search(r"^backbone +efficientnet-lite0 +efficientnet-lite +patchcore-efficientnet-lite ", table, re.M)


def test_list_of_one_role() -> None:
    assert [row["name"] for row in run_json("plugins", "list", "--role", "aggregator")] == [
        "average-pool",
        "global-pool",
    ]
    message = run_failing("plugins", "list", "--role", "x")
    assert message.startswith("unknown role 'x'")
    assert message.endswith(", ".join(ROLES))


@pytest.mark.slow
@pytest.mark.usefixtures("broken")
def test_broken_plugins_are_listed_and_reported_by_check() -> None:
    rows = [row for row in run_json("plugins", "list") if row["status"] != "loaded"]
    assert [[row[name] for name in FIELDS[:-1]] for row in rows] == [
        ["-", "-", "acme", "1.5", "acme", "failed"],
        ["-", "-", "zenith", "2.5", "zen", "failed"],
    ]
    assert rows[0]["summary"] == "RuntimeError: no licence"
    assert "did you mean 'patchcore_samplers'?" in rows[1]["summary"]
    assert re.search(
        r"^- +- +acme +acme +1\.5 +failed +RuntimeError: no licence *$", run_command("plugins", "list").out, re.M
    )

    ended = patchcore(*FEW, "plugins", "check")
    assert ended.code == 1
    assert [line.partition(": ")[2] for line in ended.err.splitlines()] == [
        f"acme (acme 1.5): {rows[0]['summary']}",
        f"zen (zenith 2.5): {rows[1]['summary']}",
    ]


@pytest.mark.usefixtures("broken")
def test_fit_works_with_broken_plugins_installed(good: Path, tmp_path: Path) -> None:
    images = sorted(good.iterdir())[:2]
    run_command("fit", *images, "--out", tmp_path / "m", *SMALL)
    message = run_failing("fit", *images, "--out", tmp_path / "n", *SMALL, "--scorer", "acme-scorer")
    assert message.startswith("unknown scorer 'acme-scorer'")
    assert "acme (acme 1.5): RuntimeError: no licence" in message


@pytest.mark.slow
def test_blocked_plugins(distribution: Install) -> None:
    distribution("acme", BROKEN)
    rows = run_json("--block", "acme", "--block", "simple-samplers", "plugins", "list")
    assert {row["plugin"] for row in rows if row["status"] == "blocked"} == {"acme", "simple-samplers"}
    assert {row["status"] for row in rows} == {"loaded", "blocked"}
    assert "random" not in {row["name"] for row in rows}
    assert run_command(*FEW, "--block", "acme", "plugins", "check").err == ""


def test_built_in_plugins_only(distribution: Install) -> None:
    distribution("acme", BROKEN)
    rows = run_json("--no-plugins", "plugins", "list")
    assert {row["distribution"] for row in rows} == {"patchcore-plugin"}
    assert run_command(*FEW, "--no-plugins", "plugins", "check").err == ""


@pytest.mark.slow
def test_name_claimed_twice_fails_only_when_it_is_used(distribution: Install, good: Path, tmp_path: Path) -> None:
    distribution("acme", ALSO_ALL)
    message = run_failing("plugins", "show", "all")
    assert message.startswith("sampler 'all' ")
    assert message.endswith("--block acme")
    ended = patchcore(*FEW, "plugins", "check", "--json")
    assert (ended.code, ended.err) == (1, f"patchcore: {message}\n")
    assert json.loads(ended.out)["problems"] == [message]
    assert run_command("--block", "acme", "plugins", "show", "all").out.endswith("no options\n")
    fit = ("fit", *sorted(good.iterdir())[:2], "--out", tmp_path / "m.safetensors", *SMALL[:6])
    assert run_failing(*fit, "--sampler", "all") == message
    run_command(*fit, "--sampler", "random")


def test_show() -> None:
    (content,) = run_json("plugins", "show", "greedy-coreset")
    assert list(content) == ["role", "name", "summary", "plugin", "distribution", "version", "kernels", "options"]
    ratio = content["options"][0]
    assert (ratio["name"], ratio["type"], ratio["default"]) == ("ratio", "float, > 0, <= 1", "0.1")
    table = run_command("plugins", "show", "greedy-coreset").out
    assert table.startswith(f"sampler greedy-coreset: {content['summary']}\n")
    assert re.search(rf"^sampler\.ratio +float, > 0, <= 1 +0\.1 +{re.escape(ratio['meaning'])} *$", table, re.MULTILINE)
    assert run_failing("plugins", "show", "greedy").startswith("unknown component 'greedy'; ")


def test_show_names_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("knn", "greedy-coreset"):
        assert f"kernels: {describe()}\n" in run_command("plugins", "show", name).out
    assert "kernels" not in run_command("plugins", "show", "average-pool").out
    monkeypatch.setenv("PATCHCORE_COMPILED", "0")
    assert run_json("plugins", "show", "knn")[0]["kernels"] == "torch"


def test_show_of_a_name_in_two_roles(distribution: Install) -> None:
    distribution("acme", ALSO_ALL.replace("SamplerSpec", "ScorerSpec").replace("_samplers", "_scorers"))
    content = run_json("plugins", "show", "all")
    assert [(row["role"], row["plugin"]) for row in content] == [("sampler", "simple-samplers"), ("scorer", "acme")]
    assert "\nscorer all: the first rows\n" in run_command("plugins", "show", "all").out


def test_brackets_in_a_table_are_not_markup() -> None:
    table = run_command("plugins", "show", "resnet18").out
    assert re.search(r"^backbone\.layers +tuple\[str, \.\.\.\] +\('layer2', 'layer3'\) ", table, re.MULTILINE)
