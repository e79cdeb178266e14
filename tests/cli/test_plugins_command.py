"""`patchcore plugins`: what is checked, and what the shell completes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import patchcore_plugin as pp
from tests.commands import SMALL, done, failure, loaded, patchcore
from tests.plugins.fake_plugins import ALSO_ALL, BROKEN, Install

SAMPLER = """
    from dataclasses import dataclass
    import patchcore_plugin as pp

    @dataclass(frozen=True, kw_only=True)
    class Config:
        step: int = {default}
        '''Keep every step-th patch.'''

    def create(config):
        import torch

        def every(vectors):
            {first}
            if vectors.ndim != 2 or len(vectors) == 0:
                raise pp.TensorError("expected vectors [N, D]")
            return torch.arange(0, len(vectors), config.step)

        return every

    @pp.hookimpl
    def patchcore_samplers():
        return [pp.SamplerSpec(name="every", config=Config, create=create, summary="every n-th patch")]
"""
SOUND = SAMPLER.format(default=2, first="pass")
INVALID = SAMPLER.format(default=2, first="vectors.add_(1)").replace("'''Keep every step-th patch.'''", "")
SAID = (
    "patchcore: sampler 'every': expected a docstring of option 'step', found none; "
    "write a string with its meaning below the field [options-are-documented]\n"
)
UNAVAILABLE = """
    from dataclasses import dataclass
    import patchcore_plugin as pp

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    def create(config):
        raise pp.PluginError("needs acme-search; pip install acme-search")

    @pp.hookimpl
    def patchcore_scorers():
        return [pp.ScorerSpec(name="far", config=Config, create=create, summary="far away")]
"""
NOT_MADE = "cannot create scorer 'far' with its default options: needs acme-search; pip install acme-search"


def entry(content: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = (each for each in content["checked"] if each["name"] == name)
    assert isinstance(one, dict)
    return one


# check


def test_records_of_all_are_checked_and_all_but_backbones_are_called(distribution: Install) -> None:
    distribution("acme", SOUND)
    content = loaded("plugins", "check")
    assert list(content) == ["loaded", "checked", "unavailable", "problems"]
    assert {(each["role"], each["name"]) for each in content["checked"]} == {
        (each.spec.role, each.spec.name) for each in pp.Host().components()
    }
    assert {title for each in content["checked"] for title in each["failed"]} == set()
    for name in ("resnet18", "efficientnet-lite0"):
        assert "summary-is-one-line" in entry(content, name)["passed"]
        assert "can-be-created" not in entry(content, name)["passed"]
    for name, title in (
        ("every", "few-rows-work"),
        ("average-pool", "patches-keep-orientation"),
        ("knn", "state-is-complete"),
    ):
        assert {"summary-is-one-line", "can-be-created", title} <= set(entry(content, name)["passed"])


def test_what_was_checked_is_told(distribution: Install) -> None:
    distribution("acme", SOUND)
    said = done("plugins", "check", "every", "efficientnet-lite0")
    assert said.err == ""
    _, checks, called = said.out.splitlines()
    assert checks.endswith(" checks passed, 0 failed, of 2 components")
    assert called == "made and called: sampler every, backbone efficientnet-lite0"
    assert "\nmade and called: aggregator average-pool, " in done("plugins", "check").out


def test_a_component_that_breaks_its_contract(distribution: Install) -> None:
    distribution("acme", INVALID)
    distribution("zenith", BROKEN, version="1.5")
    ended = patchcore("plugins", "check", "--json")
    assert ended.code == 1
    assert ended.err == (
        "patchcore: zenith (zenith 1.5): RuntimeError: no licence\n"
        + SAID
        + "patchcore: sampler 'every': expected its input unchanged, found 1 of 1 tensors changed; use a copy "
        "[input-stays-unchanged]\n"
    )
    failed = {each["name"]: each["failed"] for each in json.loads(ended.out)["checked"] if each["failed"]}
    assert failed == {"every": ["options-are-documented", "input-stays-unchanged"]}


def test_a_fault_is_told_once_with_its_place_and_the_checks_that_find_it(distribution: Install) -> None:
    source = SAMPLER.format(default=2, first="torch.zeros(3).reshape(2)  # fails in torch")
    file = distribution("acme", source) / "acme.py"
    number = 1 + next(i for i, line in enumerate(file.read_text().splitlines()) if line.endswith("# fails in torch"))
    ended = patchcore("plugins", "check", "every", "--json")
    (problem,) = (each for each in json.loads(ended.out)["problems"] if "expected no exception" in each)
    found, _, rest = problem.partition("; see ")
    assert found == (
        "sampler 'every': expected no exception, found RuntimeError: shape '[2]' is invalid for input of size 3"
    )
    place, _, titles = rest.rstrip("]").partition(" [")
    assert place == f"{file}, line {number}"
    failed = entry(json.loads(ended.out), "every")["failed"]
    assert {"input-stays-unchanged", "few-rows-work"} <= set(titles.split(", ")) <= set(failed)
    assert all(each.endswith("]") for each in json.loads(ended.out)["problems"])


def test_an_exception_of_a_library_is_placed_where_the_plugin_called_it(distribution: Install) -> None:
    said = SAMPLER.format(default=2, first="sorted([3, 4], key=lambda each: __import__('json').loads('{'))")
    file = distribution("acme", said) / "acme.py"
    assert f"; see {file}, line " in patchcore("plugins", "check", "every").err


def test_one_is_no_plural(distribution: Install) -> None:
    distribution("acme", SOUND)
    assert " 0 failed, of 1 component\n" in done("plugins", "check", "every").out


def test_the_names_restrict_what_is_checked(distribution: Install) -> None:
    distribution("acme", INVALID)
    distribution("zenith", BROKEN)
    assert [each["name"] for each in loaded("plugins", "check", "random", "knn")["checked"]] == ["random", "knn"]
    assert patchcore("plugins", "check", "every").err.startswith(SAID)
    said = failure("plugins", "check", "evry")
    assert said.startswith("no component is called 'evry'; there are: all, ")
    assert said.endswith("; not loaded: zenith (zenith 1.0): RuntimeError: no licence")


def test_options_of_what_is_checked() -> None:
    content = loaded("plugins", "check", "resnet18", "--set", "backbone.weights=random")
    assert {"can-be-created", "images-are-independent"} <= set(entry(content, "resnet18")["passed"])
    said = patchcore("plugins", "check", "knn", "--set", "scorer.neighbours=1")
    assert said.code == 1
    assert said.err == (
        "patchcore: cannot create scorer 'knn' with options {'neighbours': 1}: scorer 'knn': option 'neighbours' must "
        "be greater than or equal to 2, got 1\n"
    )
    assert failure("plugins", "check", "knn", "--set", "sampler.ratio=1") == (
        "--set sampler.ratio=1: no sampler is checked; name one, or set scorer options"
    )
    assert failure("plugins", "check", "--set", "sampler.ratio=1") == (
        "--set needs the name of a component: patchcore plugins check NAME --set ROLE.OPTION=VALUE"
    )


def test_a_component_whose_package_is_missing_is_no_problem_unless_it_is_named(distribution: Install) -> None:
    distribution("acme", UNAVAILABLE)
    said = done("plugins", "check")
    assert said.err == ""
    assert f"\nnot fully checked: {NOT_MADE}\n" in said.out
    assert NOT_MADE in loaded("plugins", "check")["unavailable"]
    named = patchcore("plugins", "check", "far")
    assert (named.code, named.err) == (1, f"patchcore: {NOT_MADE}\n")


def test_what_a_component_prints_is_not_part_of_the_answer(distribution: Install) -> None:
    distribution("acme", SAMPLER.format(default=2, first="print('hello')"))
    assert "can-be-created" in entry(loaded("plugins", "check", "every"), "every")["passed"]


def test_without_torch_records_are_checked(distribution: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution("acme", INVALID)
    monkeypatch.setitem(sys.modules, "torch", None)
    ended = patchcore("plugins", "check")
    assert ended.code == 1
    assert ended.err.splitlines(keepends=True) == [
        "patchcore: torch cannot be imported (ModuleNotFoundError: import of torch halted; None in sys.modules); "
        "no component was called\n",
        SAID,
    ]
    assert "made and called" not in ended.out


# show


def test_show_is_one_document_for_a_name_in_two_roles(distribution: Install) -> None:
    distribution("acme", UNAVAILABLE.replace('"far"', '"random"'))
    content = loaded("plugins", "show", "random")
    assert [(each["role"], each["plugin"]) for each in content] == [("sampler", "simple-samplers"), ("scorer", "acme")]
    assert "\nscorer random: far away\n" in done("plugins", "show", "random").out


# Names that clash, plugins that are slow


def test_a_name_claimed_twice_fails_where_it_is_used(distribution: Install, dataset: Path, tmp_path: Path) -> None:
    distribution("acme", ALSO_ALL)
    version = pp.Host().component("scorer", "knn").plugin.version
    wanted = ("fit", dataset, "--out", tmp_path / "m.safetensors", *SMALL[:6])
    assert failure(*wanted, "--sampler", "all") == (
        f"sampler 'all' is claimed by simple-samplers (patchcore-plugin {version}) and acme (acme 1.0); "
        "block one of them, for example with --block acme"
    )
    done(*wanted, "--sampler", "random")


def shell(folder: Path, words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `patchcore` in a new process that has a folder's modules and cannot import torch."""
    (folder / "torch.py").write_text("raise ImportError('torch is not to be imported')", encoding="utf-8")
    command = [sys.executable, "-c", "from patchcore_plugin.cli import main; main()", *shlex.split(words)]
    given = {**os.environ, "PYTHONPATH": str(folder), **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=given, check=False)


def test_a_slow_plugin_costs_nothing_when_it_is_blocked(distribution: Install) -> None:
    folder = distribution("acme", "import time\ntime.sleep(600)")
    listed = shell(folder, "--block acme plugins list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "blocked by name" in listed.stdout
    assert shell(folder, "plugins list", PATCHCORE_BLOCK_PLUGINS="acme").returncode == 0


# Completion

ROWDY = """
    import os, sys
    print("hello")
    print("hello", file=sys.stderr)
    sys.exit(3)
"""


def completed(folder: Path, line: str) -> list[str]:
    """Return what bash would offer at the end of a line."""
    words = shlex.split(line)
    place = len(words) - (not line.endswith(" "))
    environment = {"_PATCHCORE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(place)}
    done = shell(folder, "", PATCHCORE_STRICT_PLUGINS="1", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "role", "start"),
    [
        ("patchcore fit images --backbone ", "backbone", ""),
        ("patchcore fit images --aggregator a", "aggregator", "a"),
        ("patchcore evaluate dataset --sampler r", "sampler", "r"),
        ("patchcore evaluate dataset --scorer ", "scorer", ""),
        ("patchcore plugins show greedy", "sampler", "greedy"),
    ],
)
def test_names_are_completed(distribution: Install, line: str, role: str, start: str) -> None:
    folder = distribution("acme", ROWDY)
    expected = [name for name in pp.Host().names(role) if name.startswith(start)]
    assert expected
    assert completed(folder, line) == expected


def test_what_is_blocked_is_not_completed(distribution: Install) -> None:
    folder = distribution("acme", ROWDY)
    assert completed(folder, "patchcore --block simple-samplers fit --sampler r") == []
    lite = "efficientnet-lite0"
    assert lite in completed(folder, f"patchcore fit --backbone {lite[:4]}")
    assert lite not in completed(folder, f"patchcore --no-plugins fit --backbone {lite[:4]}")


def test_recipes_and_roles_are_completed(distribution: Install) -> None:
    folder = distribution("acme", ROWDY)
    shipped = [name for name in pp.Recipe.names() if name.startswith("patchcore-")]
    assert len(shipped) > 3
    assert completed(folder, "patchcore fit --recipe patchcore-") == shipped
    assert completed(folder, "patchcore evaluate . --recipe patchcore-p") == ["patchcore-paper"]
    assert completed(folder, "patchcore recipes show patchcore-p") == ["patchcore-paper"]
    assert completed(folder, "patchcore plugins list --role s") == ["sampler", "scorer"]


def test_blocking_is_completed_without_importing_what_may_be_slow(distribution: Install) -> None:
    folder = distribution("acme-search", "import time\ntime.sleep(600)", entry_point="acmes")
    assert completed(folder, "patchcore --block ac") == ["acme-search", "acmes"]
    assert "greedy-coreset" in completed(folder, "patchcore --block gr")
