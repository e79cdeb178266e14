"""The built-in components and those of the backbone packages conform to their contracts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.plugins.options import describe
from patchcore_plugin.plugins.testing import UnavailableError, checks, component_checks

pytestmark = pytest.mark.slow

RANDOM = {"weights": "random"}
BACKBONES: dict[str, dict[str, Any]] = {
    **{"resnet18": RANDOM, "densenet201": RANDOM, "efficientnet_b4": RANDOM, "efficientnet-lite0": {}},
    "timm": {"model": "resnet10t", "weights": "random"},
}
"""Options of one backbone for each kind of network. Records alone are checked for others, which run the same code."""
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("aggregator", "average-pool", {"embed_dim": 16}),
    ("aggregator", "average-pool", {"stride": 2, "channels": 8}),
    ("sampler", "greedy-coreset", {"count": 7}),
    ("sampler", "greedy-coreset", {"projection_dim": 4}),
    ("scorer", "knn", {"reweight": False, "squared": True}),
    ("scorer", "faiss", {"index": "hnsw"}),
    ("scorer", "faiss", {"index": "ivf"}),
    ("scorer", "pyramid-knn", {"images": 2}),
]
"""One set of options for each further path in the code of a component."""
OPTIONAL = {"faiss", "timm"}
"""Components that need packages which may be missing."""
HOST = pp.Host()


def run_checks(component: pp.Component, options: dict[str, Any], *, behaviour: bool) -> None:
    """Run all checks; a component that needs files is called by the tests of its distribution."""
    for check in component_checks(HOST, component, options=options, behaviour=behaviour):
        try:
            check()
        except UnavailableError as error:
            if component.spec.name in OPTIONAL:
                pytest.skip(str(error))
            if not any(option.default == "required" for option in describe(component.spec.config)):
                raise


@pytest.mark.parametrize(
    "component",
    [
        pytest.param(
            component,
            id=f"{component.spec.role}-{component.spec.name}",
            marks=[pytest.mark.slow] if component.spec.name in BACKBONES else [],
        )
        for component in HOST.components()
        if component.plugin.distribution.startswith("patchcore-")
    ],
)
def test_component_conforms(component: pp.Component) -> None:
    name = component.spec.name
    behaviour = component.spec.role != "backbone" or name in BACKBONES
    run_checks(component, BACKBONES.get(name, {}), behaviour=behaviour)


@pytest.mark.parametrize(("role", "name", "options"), VARIANTS)
def test_variant_conforms(role: str, name: str, options: dict[str, Any]) -> None:
    run_checks(HOST.component(role, name), options, behaviour=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["average-pool", "greedy-coreset", "simple-samplers", "knn", "gaussian"])
def test_plugin_conforms_on_a_gpu(name: str) -> None:
    for check in checks(name, device="cuda"):
        check()
