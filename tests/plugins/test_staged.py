"""Backbones made of torch modules: which layers they have."""

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
    assert [each.shape[-1] for each in backbone(torch.zeros(1, 3, 16, 16))] == [8, 2]


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        (("tow", "three"), "layers has no 'tow' (did you mean 'two'?); choose from one, two, three"),
        (("?",), "layers has no '?'; choose from one, two, three"),
        (("two", "two"), "layers names 'two' twice"),
        ((), "layers is empty; choose from one, two, three"),
    ],
)
def test_layers_that_no_stage_has_are_refused(layers: tuple[str, ...], found: str) -> None:
    with pytest.raises(pp.OptionError) as caught:
        staged(*layers)
    assert str(caught.value) == f"backbone tiny: {found}"
