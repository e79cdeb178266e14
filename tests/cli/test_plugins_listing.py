"""`patchcore plugins list` and `show`, and what all commands say of plugins that are broken, blocked or at odds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import patchcore_plugin as pp
from patchcore_plugin.kernels.native import description
from patchcore_plugin.plugins.builtin import PLUGINS
from tests.commands import SMALL, done, failure, loaded, patchcore
from tests.plugins.fake_plugins import ALSO_ALL, BROKEN, MISSPELT, MISSPELT_REASON, Install

FEW = [word for name in PLUGINS if name != "simple-samplers" for word in ("--block", name)]
"""Leave out most of the built-in plugins, whose checks take time."""


def test_plugins_list() -> None:
    rows = loaded("plugins", "list")
    assert all(list(row) == ["role", "name", "distribution", "version", "plugin", "status", "summary"] for row in rows)
    assert {row["status"] for row in rows} == {"loaded"}
    assert [row["role"] for row in rows] == sorted(
        (row["role"] for row in rows), key=["backbone", "aggregator", "sampler", "scorer"].index
    )
    lite = next(row for row in rows if row["name"] == "efficientnet-lite0")
    assert (lite["distribution"], lite["plugin"]) == ("patchcore-efficientnet-lite", "efficientnet-lite")
    table = done("plugins", "list").out
    assert re.search(r"^backbone +efficientnet-lite0 +efficientnet-lite +patchcore-efficientnet-lite ", table, re.M)
    assert re.search(r"^sampler +greedy-coreset +greedy-coreset +patchcore-plugin ", table, re.MULTILINE)


def test_plugins_list_of_one_role() -> None:
    assert [row["name"] for row in loaded("plugins", "list", "--role", "aggregator")] == ["average-pool", "global-pool"]
    said = failure("plugins", "list", "--role", "x")
    assert said == "unknown role 'x'; the roles are: backbone, aggregator, sampler, scorer"


def test_broken_plugins_are_listed_and_found_by_check(distribution: Install) -> None:
    distribution("acme", BROKEN, version="1.5")
    distribution("zenith", MISSPELT, version="2.5", entry_point="zen")
    rows = [row for row in loaded("plugins", "list") if row["status"] != "loaded"]
    expected = [("acme", "acme", "1.5", "RuntimeError: no licence"), ("zen", "zenith", "2.5", MISSPELT_REASON)]
    assert rows == [
        {
            "role": "-",
            "name": "-",
            "distribution": name,
            "version": version,
            "plugin": entry_point,
            "status": "failed",
            "summary": reason,
        }
        for entry_point, name, version, reason in expected
    ]
    table = done("plugins", "list").out
    assert re.search(r"^- +- +acme +acme +1\.5 +failed +RuntimeError: no licence *$", table, re.MULTILINE)
    assert re.search(rf"^- +- +zen +zenith +2\.5 +failed +{re.escape(MISSPELT_REASON)} *$", table, re.MULTILINE)

    ended = patchcore(*FEW, "plugins", "check")
    assert ended.code == 1
    assert re.match(r"\d+ plugins loaded, \d+ components\n\d+ checks passed, 0 failed, ", ended.out)
    assert ended.err == (
        f"patchcore: acme (acme 1.5): RuntimeError: no licence\npatchcore: zen (zenith 2.5): {MISSPELT_REASON}\n"
    )


def test_a_fit_works_beside_broken_plugins(distribution: Install, good: Path, tmp_path: Path) -> None:
    distribution("acme", BROKEN, version="1.5")
    distribution("zenith", MISSPELT, version="2.5", entry_point="zen")
    images = sorted(good.iterdir())[:2]
    done("fit", *images, "--out", tmp_path / "m", *SMALL)
    said = failure("fit", *images, "--out", tmp_path / "n", *SMALL, "--scorer", "acme-scorer")
    assert said == (
        f"unknown scorer 'acme-scorer'; available: {', '.join(pp.Host().names('scorer'))}; not loaded: "
        f"acme (acme 1.5): RuntimeError: no licence; zen (zenith 2.5): {MISSPELT_REASON}"
    )


def test_blocking(distribution: Install) -> None:
    distribution("acme", BROKEN)
    rows = loaded("--block", "acme", "--block", "simple-samplers", "plugins", "list")
    blocked = {row["plugin"]: row["summary"] for row in rows if row["status"] == "blocked"}
    assert blocked == {"acme": "blocked by name", "simple-samplers": "blocked by name"}
    assert {row["status"] for row in rows} == {"loaded", "blocked"}
    assert "random" not in {row["name"] for row in rows}
    assert done(*FEW, "--block", "acme", "plugins", "check").err == ""


def test_no_plugins(distribution: Install) -> None:
    distribution("acme", BROKEN)
    rows = loaded("--no-plugins", "plugins", "list")
    assert {row["distribution"] for row in rows} == {"patchcore-plugin"}
    assert done(*FEW, "--no-plugins", "plugins", "check").err == ""


def test_plugins_check() -> None:
    content = loaded(*FEW, "plugins", "check")
    assert content["problems"] == []
    assert any(each.startswith("efficientnet-lite (patchcore-efficientnet-lite ") for each in content["loaded"])


def test_a_clash_is_found_by_check_and_told_when_asked_for(distribution: Install) -> None:
    distribution("acme", ALSO_ALL)
    version = pp.Host().component("scorer", "knn").plugin.version
    message = (
        f"sampler 'all' is claimed by simple-samplers (patchcore-plugin {version}) and acme (acme 1.0); "
        "block one of them, for example with --block acme"
    )
    ended = patchcore(*FEW, "plugins", "check", "--json")
    assert (ended.code, ended.err) == (1, f"patchcore: {message}\n")
    assert json.loads(ended.out)["problems"] == [message]
    assert failure("plugins", "show", "all") == message
    assert done("--block", "acme", "plugins", "show", "all").out.endswith("no options\n")


def test_plugins_show() -> None:
    version = pp.Host().component("scorer", "knn").plugin.version
    shown = done("plugins", "show", "greedy-coreset").out
    assert shown.startswith(
        "sampler greedy-coreset: greedy minimax coreset, exact (as in the paper)\n"
        f"from plugin greedy-coreset (patchcore-plugin {version})\n"
    )
    meaning = re.escape("Fraction of the patches to keep; the paper uses 0.25, 0.1 and 0.01.")
    assert re.search(rf"^sampler\.ratio +float, > 0, <= 1 +0\.1 +{meaning} *$", shown, re.MULTILINE)
    (content,) = loaded("plugins", "show", "greedy-coreset")
    assert list(content) == ["role", "name", "summary", "plugin", "distribution", "version", "kernels", "options"]
    assert content["options"][0] == {
        "name": "ratio",
        "type": "float, > 0, <= 1",
        "default": "0.1",
        "meaning": "Fraction of the patches to keep; the paper uses 0.25, 0.1 and 0.01.",
    }
    said = failure("plugins", "show", "greedy")
    assert said.startswith("no component is called 'greedy'; there are: all, average-pool, ")


def test_plugins_show_says_which_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("knn", "greedy-coreset"):
        assert f"\nkernels on a CPU: {description()}\n" in done("plugins", "show", name).out
    assert "kernels" not in done("plugins", "show", "average-pool").out
    monkeypatch.setenv("PATCHCORE_COMPILED", "0")
    assert "\nkernels on a CPU: torch\n" in done("plugins", "show", "knn").out
    assert loaded("plugins", "show", "knn")[0]["kernels"] == "torch"


def test_brackets_in_a_table_are_shown_as_they_are() -> None:
    shown = done("plugins", "show", "resnet18").out
    assert re.search(r"^backbone\.layers +tuple\[str, \.\.\.\] +\('layer2', 'layer3'\) ", shown, re.MULTILINE)
