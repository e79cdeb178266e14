"""The backbone as the tests make it, and timm's own networks to compare with."""

from __future__ import annotations

from typing import Any

import patchcore_timm as plugin
import pytest
import timm
import torch

import patchcore_plugin as pp


def create(model: str = "test_resnet", **options: Any) -> Any:
    return plugin.create(plugin.Config(**{"model": model, "weights": "random", **options}))


def message(kind: type[pp.PatchcoreError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        create(**options)
    return str(caught.value)


def images(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def original(model: str, **options: Any) -> Any:
    """Return the whole model as timm makes it, classifier included, with weights of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        return timm.create_model(model, **options).eval()
