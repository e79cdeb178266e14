"""The conformance kit: for each check there is a component that fails it, and what the kit does beside."""

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
from patchcore_plugin.plugins.testing import CannotBeMadeError, Check, ConformanceError, checks, parametrize_checks
from patchcore_plugin.plugins.testing.common import role_module
from patchcore_plugin.plugins.testing.records import CHECKS as RECORD_CHECKS
from patchcore_plugin.plugins.testing.subject import title_of
from tests.plugins.nonconforming import BROKEN, SOUND, Backbone, Broken, Sampler, Scorer, plugin, record
from tests.plugins.nonconforming.streaming import Streaming

Install = Callable[..., Path]


# Each check fails a component that breaks it


def titles(role: str) -> set[str]:
    return {title_of(each) for each in (*RECORD_CHECKS, *role_module(role).CHECKS)}


def check_of(spec: pp.ComponentSpec, title: str) -> Check:
    (check,) = (each for each in checks(plugin(spec)) if each.title == title)
    return check


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_a_broken_component_fails(broken: Broken) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_of(broken.spec, broken.title)()
    said = f"{broken.spec.role} {broken.spec.name!r}: {broken.message}"
    place = r"\S+[/\\]nonconforming[/\\]\w+\.py, line \d+"
    pattern = re.escape(said).replace("<number>", r"-?[\d.]+").replace("<place>", place)
    assert re.fullmatch(pattern, str(caught.value)), caught.value


@pytest.mark.parametrize("role", ROLES)
def test_a_sound_component_passes(role: str) -> None:
    found = checks(plugin(record(role, SOUND[role], name="sound")))
    assert {check.title for check in found} == titles(role) - {"listing-imports-nothing-heavy"}
    for check in found:
        check()


def test_no_check_is_without_a_component_that_fails_it() -> None:
    record_titles = {title_of(each) for each in RECORD_CHECKS} - {"listing-imports-nothing-heavy"}  # tested below
    assert record_titles <= {each.title for each in BROKEN}
    for role in ROLES:
        failed = {each.title for each in BROKEN if each.spec.role == role}
        assert {title_of(each) for each in role_module(role).CHECKS} <= failed


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


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"heavy": "import cv2"}, "cv2"),
        ({"kernels": ", kernels=lambda device: __import__('PIL').__version__"}, "PIL"),
        ({"heavy": "import cv2, PIL"}, "PIL, cv2"),
    ],
)
def test_a_plugin_whose_listing_is_heavy_fails(parts: dict[str, str], found: str, distribution: Install) -> None:
    distribution("acme", SOURCE.format(**{"heavy": "", "kernels": "", **parts}))
    (check,) = (each for each in checks("acme") if each.title == "listing-imports-nothing-heavy")
    with pytest.raises(ConformanceError) as caught:
        check()
    assert str(caught.value) == (
        f"sampler 'first': expected listing acme to import nothing heavy, found {found}; "
        "import what is heavy inside create"
    )


def test_a_plugin_that_imports_only_where_another_did_before_fails(distribution: Install) -> None:
    distribution("acme", SOURCE.format(heavy="import sys\n    sys.acme_was_here", kernels=""))
    sys.acme_was_here = True  # type: ignore[attr-defined]
    (check,) = (each for each in checks("acme") if each.title == "listing-imports-nothing-heavy")
    with pytest.raises(ConformanceError) as caught:
        check()
    assert str(caught.value) == (
        "sampler 'first': expected module acme to be imported in a new process, found AttributeError: module 'sys' has "
        "no attribute 'acme_was_here'; mend what it says"
    )


# What the kit does beside


def test_it_puts_back_what_a_component_changes() -> None:
    """One broken component must not spoil the tests of others."""

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
    for what in (
        *("Python's random state", "NumPy's random state", "torch's random state", "torch's number of threads"),
        *("torch's default dtype", "torch's gradient mode", "torch's deterministic mode", "torch's float32 precision"),
        *("cuDNN's benchmark mode", "the environment", "the working folder"),
    ):
        assert what in str(caught.value)
    assert state() == before


def test_a_component_that_says_why_it_cannot_be_made_is_told_apart() -> None:
    def create(config: Any) -> Any:
        raise pp.PluginError("needs acme; pip install acme")

    with pytest.raises(CannotBeMadeError) as caught:
        check_of(record("scorer", create), "small-banks-work")()
    assert str(caught.value) == (
        "scorer 'broken' cannot be made with its default options: needs acme; pip install acme"
    )


@dataclass(frozen=True, kw_only=True)
class Required:
    path: str
    """What cannot have a default."""
    step: int = 2
    """Something to choose."""


def test_a_required_option_must_be_given() -> None:
    spec = record("sampler", Sampler, config=Required)
    with pytest.raises(CannotBeMadeError, match=r"'broken' cannot be made with its default options: .* is required$"):
        check_of(spec, "defaults-are-valid")()
    for check in checks(plugin(spec), options={"broken": {"path": "here"}}):
        check()


def test_options_reach_the_component() -> None:
    found = checks(plugin(record("sampler", Sampler)), options={"broken": {"step": 0}})
    (check,) = (each for each in found if each.title == "can-be-made")
    with pytest.raises(CannotBeMadeError, match=r"with options {'step': 0}: sampler 'broken': option 'step' must be"):
        check()
    with pytest.raises(pp.PluginError) as caught:
        checks(plugin(record("sampler", Sampler)), options={"brokn": {}})
    assert str(caught.value) == "options for 'brokn', which the plugin does not provide; it has: broken"


def test_a_scorer_may_refuse_a_bank_that_is_too_small() -> None:
    class Picky(Scorer):
        def fit(self, bank: pp.MemoryBank) -> None:
            if len(bank.vectors) < bank.origin.amax(dim=0).add(1).prod():
                raise pp.TensorError("expected every position of every image")
            super().fit(bank)

    for check in checks(plugin(record("scorer", Picky))):
        check()


def test_a_scorer_may_judge_whole_images_only() -> None:
    class Whole(Scorer):
        def scores(self, differences: torch.Tensor) -> pp.Scores:
            return pp.Scores(image=super().scores(differences).image)

    for check in checks(plugin(record("scorer", Whole))):
        check()


def test_a_scorer_may_learn_from_patches_as_they_come() -> None:
    for check in checks(plugin(record("scorer", Streaming))):
        check()


def test_a_backbone_of_one_size_is_found_out_and_may_refuse_others() -> None:
    class OneSize(Backbone):
        def __call__(self, images: torch.Tensor) -> Any:
            if images.shape[-2:] != (224, 224):
                raise pp.TensorError(f"expected 224 x 224, got {list(images.shape)}")
            return super().__call__(images)

    for check in checks(plugin(record("backbone", OneSize))):
        check()

    class NoSize(Backbone):
        def __call__(self, images: torch.Tensor) -> Any:
            raise pp.TensorError("expected 7 x 7")

    with pytest.raises(ConformanceError, match=r"one of the sizes 64 x 64, .* this refusal of each: expected 7 x 7;"):
        check_of(record("backbone", NoSize), "maps-are-finest-first")()


# Which plugin


@parametrize_checks(greedy_coreset, options={"greedy-coreset": {"count": 7}})
def test_the_three_lines(check: Check) -> None:
    check()


def test_identifiers_and_meanings() -> None:
    found = checks(plugin(record("sampler", Sampler, name="every")))
    assert str(found[0]) == "sampler-every-name-is-free"
    assert len({str(check) for check in found}) == len(found)
    assert all(check.meaning.endswith(".") for check in found)


def test_by_name_of_plugin_or_distribution(distribution: Install) -> None:
    assert {check.name for check in checks("simple-samplers")} == {"random", "all"}
    distribution("acme-samplers", SOURCE.format(heavy="", kernels=""), entry_point="acme")
    assert {check.name for check in checks("acme")} == {"first"}
    assert {check.name for check in checks("Acme_Samplers")} == {"first"}


def test_what_is_not_there_or_broken(distribution: Install) -> None:
    with pytest.raises(pp.PluginError, match=r"^no plugin or distribution 'acme' is installed; there are: average-"):
        checks("acme")
    distribution("acme", "raise RuntimeError('no licence')")
    with pytest.raises(pp.PluginError) as caught:
        checks("acme")
    assert str(caught.value) == "acme (acme 1.0): RuntimeError: no licence"
    with pytest.raises(pp.PluginError, match="no hooks; mark a function"):
        checks(math)
    empty = SimpleNamespace(patchcore_samplers=pp.hookimpl(lambda: [], specname="patchcore_samplers"))
    with pytest.raises(pp.PluginError) as caught:
        checks(empty)
    assert str(caught.value) == "SimpleNamespace provides no component; return records from its hooks, or unblock it"


def test_a_name_that_is_claimed_twice(distribution: Install) -> None:
    source = SOURCE.format(heavy="", kernels="")
    distribution("acme", source)
    distribution("zenith", source)
    with pytest.raises(pp.PluginError, match=r"'first' is claimed by acme .* and zenith"):
        checks("acme")


def test_the_page_lists_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
    for role in ROLES:
        for check in checks(plugin(record(role, SOUND[role]))):
            assert f"| `{check.title}` | {check.meaning} |" in page, check
