"""Helpers for authors of backbones; read_weights and differences are tested with torchvision weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import patchcore_plugin as pp


def staged(*layers: str) -> pp.StagedBackbone:
    stages = nn.Sequential()
    for name in ("one", "two", "three"):
        stages.add_module(name, nn.AvgPool2d(2))
    return pp.StagedBackbone("tiny", stages, layers)


def test_layers_in_any_order_give_maps_finest_first() -> None:
    backbone = staged("three", "one")
    assert backbone.layers == ("one", "three")
    assert [features.shape[-1] for features in backbone(torch.zeros(1, 3, 16, 16))] == [8, 2]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("tow", "three"), "'tow'; did you mean 'two'? choose from one, two, three"),
        (("?",), "'?'; choose from one, two, three"),
        (("two", "two"), "'two' twice"),
        ((), "layers is empty"),
    ],
)
def test_invalid_layers_are_refused(layers: tuple[str, ...], message: str) -> None:
    with pytest.raises(pp.OptionError) as caught:
        staged(*layers)
    assert message in str(caught.value)
