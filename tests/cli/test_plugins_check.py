"""`patchcore plugins check`: which checks run, and how problems are reported."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

import patchcore_plugin as pp
from tests.commands import patchcore, run_command, run_failing, run_json
from tests.plugins.fake_plugins import BROKEN, Install

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
"""Changes its input, and has an option without documentation."""
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


def find_result(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the result of one component in the JSON document of the command."""
    (result,) = (result for result in content["checked"] if result["name"] == name)
    assert isinstance(result, dict)
    return result


@pytest.mark.slow
def test_all_components_are_checked_and_backbones_are_not_called(distribution: Install) -> None:
    distribution("acme", SOUND)
    content = run_json("plugins", "check")
    assert list(content) == ["loaded", "checked", "unavailable", "problems"]
    assert content["problems"] == []
    assert any(plugin.startswith("efficientnet-lite (patchcore-efficientnet-lite ") for plugin in content["loaded"])
    assert {(result["role"], result["name"]) for result in content["checked"]} == {
        (component.spec.role, component.spec.name) for component in pp.Host().components()
    }
    assert {title for result in content["checked"] for title in result["failed"]} == set()
    for name in ("resnet18", "efficientnet-lite0"):
        assert "summary-is-one-line" in find_result(content, name)["passed"]
        assert "can-be-created" not in find_result(content, name)["passed"]
    for name, title in (
        ("every", "few-rows-work"),
        ("average-pool", "patches-keep-orientation"),
        ("knn", "state-is-complete"),
    ):
        assert {"summary-is-one-line", "can-be-created", title} <= set(find_result(content, name)["passed"])


@pytest.mark.slow
def test_summary_lists_the_components_that_were_called(distribution: Install) -> None:
    distribution("acme", SOUND)
    ended = run_command("plugins", "check", "every", "efficientnet-lite0")
    assert ended.err == ""
    assert ended.out.splitlines()[-1].endswith(": sampler every, backbone efficientnet-lite0")


def test_violations_of_the_contract(distribution: Install) -> None:
    distribution("acme", INVALID)
    ended = patchcore("plugins", "check", "every", "--json")
    assert ended.code == 1
    assert find_result(json.loads(ended.out), "every")["failed"] == ["options-are-documented", "input-stays-unchanged"]
    first, second = ended.err.splitlines()
    assert first.startswith("patchcore: sampler 'every': ")
    assert "'step'" in first
    assert first.endswith(" [options-are-documented]")
    assert second.endswith(" [input-stays-unchanged]")


def test_one_fault_is_reported_once_with_its_location_and_all_failed_checks(distribution: Install) -> None:
    source = SAMPLER.format(default=2, first="torch.zeros(3).reshape(2)  # fails in torch")
    file = distribution("acme", source) / "acme.py"
    number = 1 + next(i for i, line in enumerate(file.read_text().splitlines()) if line.endswith("# fails in torch"))
    content = json.loads(patchcore("plugins", "check", "every", "--json").out)
    (problem,) = (problem for problem in content["problems"] if f"{file}, line {number}" in problem)
    assert "shape '[2]' is invalid for input of size 3" in problem
    titles = problem.removesuffix("]").rpartition("[")[2]
    assert (
        {"input-stays-unchanged", "few-rows-work"}
        <= set(titles.split(", "))
        <= set(find_result(content, "every")["failed"])
    )


def test_exception_of_a_library_is_located_in_the_plugin(distribution: Install) -> None:
    source = SAMPLER.format(default=2, first="sorted([3, 4], key=lambda value: __import__('json').loads('{'))")
    file = distribution("acme", source) / "acme.py"
    assert f"{file}, line " in patchcore("plugins", "check", "every").err


def test_names_select_what_is_checked(distribution: Install) -> None:
    distribution("acme", INVALID)
    distribution("zenith", BROKEN)
    assert [result["name"] for result in run_json("plugins", "check", "random", "knn")["checked"]] == ["random", "knn"]
    message = run_failing("plugins", "check", "evry")
    assert message.startswith("unknown component 'evry'; did you mean 'every'? ")
    assert message.endswith("zenith (zenith 1.0): RuntimeError: no licence")


@pytest.mark.slow
def test_options_of_the_checked_component() -> None:
    content = run_json("plugins", "check", "resnet18", "--set", "backbone.weights=random")
    assert {"can-be-created", "images-are-independent"} <= set(find_result(content, "resnet18")["passed"])
    ended = patchcore("plugins", "check", "knn", "--set", "scorer.neighbours=1")
    assert ended.code == 1
    assert "greater than or equal to 2, got 1" in ended.err
    assert run_failing("plugins", "check", "knn", "--set", "sampler.ratio=1").startswith(
        "--set sampler.ratio=1: no sampler"
    )
    assert "NAME" in run_failing("plugins", "check", "--set", "sampler.ratio=1")


@pytest.mark.slow
def test_missing_package_is_a_problem_only_if_the_component_is_named(distribution: Install) -> None:
    distribution("acme", UNAVAILABLE)
    ended = run_command("plugins", "check")
    assert ended.err == ""
    assert "needs acme-search; pip install acme-search" in ended.out
    ended = patchcore("plugins", "check", "far", "--json")
    content = json.loads(ended.out)
    assert ended.code == 1
    assert content["unavailable"] == content["problems"]
    assert content["problems"][0].endswith("needs acme-search; pip install acme-search")


def test_output_of_a_component_is_kept_out_of_the_document(distribution: Install) -> None:
    distribution("acme", SAMPLER.format(default=2, first="print('hello')"))
    assert "can-be-created" in find_result(run_json("plugins", "check", "every"), "every")["passed"]


def test_without_torch_records_are_checked(distribution: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution("acme", INVALID)
    monkeypatch.setitem(sys.modules, "torch", None)
    ended = patchcore("plugins", "check", "every", "--json")
    assert ended.code == 1
    first, second = json.loads(ended.out)["problems"]
    assert first.startswith("torch cannot be imported (")
    assert second.endswith(" [options-are-documented]")
