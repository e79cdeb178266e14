"""torchvision's backbones as the tests make them, and a whole network to compare with."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torchvision

from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.plugins.builtin.torchvision_backbones import patchcore_backbones

SPECS = {spec.name: spec for spec in patchcore_backbones()}


def create(name: str, **options: Any) -> Any:
    spec = SPECS[name]
    return spec.create(spec.config(**options))


def message(kind: type[PatchcoreError], name: str, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        create(name, **options)
    return str(caught.value)


def images(height: int = 97, width: int = 131) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 4 - 2


@functools.cache
def whole_resnet18() -> Any:
    """Return a whole network with weights of its own, batch statistics included; not to be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = torchvision.models.resnet18(weights=None).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.uniform_(module.bias, -0.5, 0.5)
                module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return network
