"""The conformance kit: each check has a component that fails it, and sound components pass."""

from __future__ import annotations

import math
import os
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.plugins.builtin import greedy_coreset
from patchcore_plugin.plugins.specs import ROLES
from patchcore_plugin.plugins.testing import Check, ConformanceError, UnavailableError, checks, parametrize_checks
from patchcore_plugin.plugins.testing.check import title_of
from patchcore_plugin.plugins.testing.common import role_module
from patchcore_plugin.plugins.testing.spec_checks import CHECKS as SPEC_CHECKS
from tests.plugins.nonconforming import BROKEN, SOUND, Backbone, Broken, Sampler, Scorer, plugin, record
from tests.plugins.nonconforming.streaming import Streaming

Install = Callable[..., Path]


# Checks


def titles(role: str) -> set[str]:
    return {title_of(function) for function in (*SPEC_CHECKS, *role_module(role).CHECKS)}


def check_of(spec: pp.ComponentSpec, title: str) -> Check:
    (check,) = (check for check in checks(plugin(spec)) if check.title == title)
    return check


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_broken_component_fails_with_a_reason_and_a_remedy(broken: Broken) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_of(broken.spec, broken.title)()
    owner = re.escape(f"{broken.spec.role} {broken.spec.name!r}")
    match = re.fullmatch(rf"{owner}: (expected .+, found .+); [^;]+", str(caught.value))
    assert match, caught.value
    assert broken.fact in match[1]


def test_unexpected_exception_is_located() -> None:
    (broken,) = (broken for broken in BROKEN if broken.title == "maps-of-one-position-work")
    with pytest.raises(ConformanceError, match=r"see \S+[/\\]nonconforming[/\\]aggregators\.py, line \d+$"):
        check_of(broken.spec, broken.title)()


@pytest.mark.parametrize("role", ROLES)
def test_sound_component_passes_all_checks(role: str) -> None:
    all_checks = checks(plugin(record(role, SOUND[role], name="sound")))
    assert {check.title for check in all_checks} == titles(role) - {"listing-imports-nothing-heavy"}
    for check in all_checks:
        check()


def test_every_check_has_a_component_that_fails_it() -> None:
    record_titles = {title_of(function) for function in SPEC_CHECKS} - {"listing-imports-nothing-heavy"}  # tested below
    assert record_titles <= {broken.title for broken in BROKEN}
    for role in ROLES:
        failed = {broken.title for broken in BROKEN if broken.spec.role == role}
        assert {title_of(function) for function in role_module(role).CHECKS} <= failed


SOURCE = """
    {heavy}
    import patchcore_plugin as pp
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    @pp.hookimpl
    def patchcore_samplers():
        return [pp.SamplerSpec(name="first", config=Config, create=print, summary="the first rows"{kernels})]
"""


def listing_check(distribution: Install, heavy: str = "", kernels: str = "") -> Check:
    distribution("acme", SOURCE.format(heavy=heavy, kernels=kernels))
    (check,) = (check for check in checks("acme") if check.title == "listing-imports-nothing-heavy")
    return check


@pytest.mark.parametrize(
    ("parts", "packages"),
    [
        ({"heavy": "import cv2, PIL"}, "found PIL, cv2;"),
        ({"kernels": ", kernels=lambda device: __import__('PIL').__version__"}, "found PIL;"),
    ],
)
def test_plugin_with_heavy_imports_fails(parts: dict[str, str], packages: str, distribution: Install) -> None:
    check = listing_check(distribution, **parts)
    with pytest.raises(ConformanceError, match=packages):
        check()


def test_plugin_that_needs_an_earlier_import_fails(distribution: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "acme_was_here", True, raising=False)
    check = listing_check(distribution, heavy="import sys\n    sys.acme_was_here")
    with pytest.raises(ConformanceError, match="AttributeError: module 'sys' has no attribute 'acme_was_here'"):
        check()


# Behaviour of the kit


def test_changes_of_the_process_are_undone() -> None:
    """Otherwise one broken component would affect other tests."""

    class Careless(Sampler):
        def __call__(self, vectors: torch.Tensor) -> Any:
            random.seed(1)
            np.random.seed(1)  # noqa: NPY002
            torch.manual_seed(1)
            torch.set_num_threads(torch.get_num_threads() + 1)
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            torch.use_deterministic_algorithms(True)
            torch.set_float32_matmul_precision("medium")
            torch.backends.cudnn.benchmark = True
            os.environ["ACME"] = "1"
            os.chdir("/")
            return super().__call__(vectors)

    def state() -> list[Any]:
        states = [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]  # noqa: NPY002
        modes = [torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()]
        rest = [torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark]
        return [*states, *modes, *rest, dict(os.environ), Path.cwd()]

    random.seed(2), np.random.seed(2), torch.manual_seed(2)  # noqa: NPY002
    before = state()
    with pytest.raises(ConformanceError) as caught:
        check_of(record("sampler", Careless), "process-stays-unchanged")()
    names = "Python's random, NumPy's random, torch's random, threads, dtype, gradient, deterministic, float32, cuDNN"
    for name in (*names.split(", "), "environment", "working folder"):
        assert name in str(caught.value)
    assert state() == before


def test_unavailable_component_is_distinguished() -> None:
    def create(config: Any) -> Any:
        raise pp.PluginError("needs acme; pip install acme")

    with pytest.raises(UnavailableError, match=r"scorer 'broken' .*: needs acme; pip install acme$"):
        check_of(record("scorer", create), "small-banks-work")()


@dataclass(frozen=True, kw_only=True)
class Required:
    path: str
    """Has no default."""
    step: int = 2
    """Something to choose."""


def test_required_option_must_be_passed() -> None:
    spec = record("sampler", Sampler, config=Required)
    with pytest.raises(UnavailableError, match=r"'path' is required$"):
        check_of(spec, "defaults-are-valid")()
    for check in checks(plugin(spec), options={"broken": {"path": "here"}}):
        check()


def test_options_reach_the_component() -> None:
    with_options = checks(plugin(record("sampler", Sampler)), options={"broken": {"step": 0}})
    (check,) = (check for check in with_options if check.title == "can-be-created")
    with pytest.raises(UnavailableError, match=r"{'step': 0}: .*option 'step' must be"):
        check()
    with pytest.raises(pp.PluginError, match=r"'brokn', .*did you mean 'broken'"):
        checks(plugin(record("sampler", Sampler)), options={"brokn": {}})


class Picky(Scorer):
    """Refuses banks that lack positions."""

    def fit(self, bank: pp.MemoryBank) -> None:
        if len(bank.vectors) < bank.origin.amax(dim=0).add(1).prod():
            raise pp.TensorError("expected every position of every image")
        super().fit(bank)


class WithoutMap(Scorer):
    """Scores whole images only."""

    def scores(self, differences: torch.Tensor) -> pp.Scores:
        return pp.Scores(image=super().scores(differences).image)


class OneSize(Backbone):
    """Accepts a single size of images."""

    def __call__(self, images: torch.Tensor) -> Any:
        if images.shape[-2:] != (224, 224):
            raise pp.TensorError(f"expected 224 x 224, got {list(images.shape)}")
        return super().__call__(images)


@pytest.mark.parametrize(
    ("role", "component"), [("scorer", Picky), ("scorer", WithoutMap), ("scorer", Streaming), ("backbone", OneSize)]
)
def test_component_may_restrict_itself(role: str, component: type[Any]) -> None:
    for check in checks(plugin(record(role, component))):
        check()


def test_backbone_that_accepts_no_size_fails() -> None:
    class NoSize(Backbone):
        def __call__(self, images: torch.Tensor) -> Any:
            raise pp.TensorError("expected 7 x 7")

    with pytest.raises(ConformanceError, match=r"64 x 64, .*expected 7 x 7;"):
        check_of(record("backbone", NoSize), "maps-are-finest-first")()


# Selection of plugins


@parametrize_checks(greedy_coreset, options={"greedy-coreset": {"count": 7}})
def test_three_lines_run_all_checks(check: Check) -> None:
    check()


def test_identifiers_and_meanings() -> None:
    all_checks = checks(plugin(record("sampler", Sampler, name="every")))
    assert str(all_checks[0]) == "sampler-every-name-is-free"
    assert len({str(check) for check in all_checks}) == len(all_checks)
    assert all(check.meaning.endswith(".") for check in all_checks)


def test_plugin_is_selected_by_name_or_distribution(distribution: Install) -> None:
    assert {check.name for check in checks("simple-samplers")} == {"random", "all"}
    distribution("acme-samplers", SOURCE.format(heavy="", kernels=""), entry_point="acme")
    assert {check.name for check in checks("acme")} == {"first"}
    assert {check.name for check in checks("Acme_Samplers")} == {"first"}


def test_missing_or_broken_plugin_is_refused(distribution: Install) -> None:
    with pytest.raises(pp.PluginError, match=r"'acme' is installed; .*simple-samplers"):
        checks("acme")
    distribution("acme", "raise RuntimeError('no licence')")
    with pytest.raises(pp.PluginError, match=r"^acme \(acme 1.0\): RuntimeError: no licence$"):
        checks("acme")
    with pytest.raises(pp.PluginError, match="no hooks"):
        checks(math)
    empty = SimpleNamespace(patchcore_samplers=pp.hookimpl(lambda: [], specname="patchcore_samplers"))
    with pytest.raises(pp.PluginError, match="SimpleNamespace provides no component"):
        checks(empty)


def test_name_claimed_twice_is_refused(distribution: Install) -> None:
    source = SOURCE.format(heavy="", kernels="")
    distribution("acme", source)
    distribution("zenith", source)
    with pytest.raises(pp.PluginError, match=r"'first' is claimed by acme .* and zenith"):
        checks("acme")


def test_documentation_lists_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
    for role in ROLES:
        for check in checks(plugin(record(role, SOUND[role]))):
            assert f"| `{check.title}` | {check.meaning} |" in page, check
