"""Our own components conform to their contracts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.plugins.options import describe
from patchcore_plugin.plugins.testing import CannotBeMadeError, Check, checks, component_checks

OPTIONS: dict[str, dict[str, Any]] = {
    "resnet18": {"weights": "random"},
    "densenet201": {"weights": "random"},
    "efficientnet_b4": {"weights": "random"},
    "timm": {"model": "resnet10t", "weights": "random"},
}
"""What is not made with its defaults: weights that would have to be downloaded, options that have no default."""
SAME_CODE = {
    *("wide_resnet50", "wide_resnet101", "resnet50", "resnet101", "resnext101"),
    *("efficientnet-lite1", "efficientnet-lite2"),
}
"""Large networks whose code is that of resnet18 or efficientnet-lite0: their records and options only, for time."""


def own_checks() -> list[Check]:
    """Return the checks of everything that is installed and comes from here.

    A component that needs files is called by its own distribution's tests.
    """
    host = pp.Host()
    found = []
    for component in host.components():
        name = component.spec.name
        needs = any(each.default == "required" for each in describe(component.spec.config)) and name not in OPTIONS
        if component.plugin.distribution.startswith("patchcore-"):
            behaviour = name not in SAME_CODE and not needs
            found += component_checks(host, component, options=OPTIONS.get(name), behaviour=behaviour)
    return found


@pytest.mark.parametrize("check", own_checks(), ids=str)
def test_own_components_conform(check: Check) -> None:
    try:
        check()
    except CannotBeMadeError as error:
        pytest.skip(str(error))


def test_none_of_the_main_components_is_skipped() -> None:
    called = {(check.role, check.name) for check in own_checks() if check.title == "can-be-made"}
    main = {("backbone", "resnet18"), ("backbone", "efficientnet-lite0"), ("aggregator", "average-pool")}
    main |= {("aggregator", "global-pool")} | {("sampler", name) for name in ("all", "random", "greedy-coreset")}
    main |= {("scorer", name) for name in ("knn", "pyramid-knn", "image-knn", "image-gaussian")}
    assert main <= called
    for check in own_checks():
        if (check.role, check.name) in main and check.title == "can-be-made":
            check()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["average-pool", "greedy-coreset", "simple-samplers", "knn", "gaussian"])
def test_own_components_conform_on_a_gpu(name: str) -> None:
    for check in checks(name, device="cuda"):
        check()
