"""A module as a user might write it, and the backbone made of its network."""

from __future__ import annotations

from typing import Any

import patchcore_module as plugin
import pytest
import torch

import patchcore_plugin as pp

SOURCE = '''
import torch
from torch import nn

class Net(nn.Module):
    """The classifier at the end takes images of 32 x 32 only."""

    def __init__(self, width=4, tokens=False):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(nn.Conv2d(width, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        self.pool = nn.AdaptiveMaxPool2d(2, return_indices=True)
        self.flat = nn.Flatten()
        self.last = nn.Identity()
        self.head = nn.Linear(8 * 8 * 8, 5)
        self.idle = nn.Identity()

    def forward(self, x):
        x = self.act(self.blocks(self.act(self.stem(x))))
        self.pool(self.last(x))
        return self.head(self.flat(x))

def broken(width=4):
    raise KeyError("no\\nsuch thing")

def number():
    return 3
'''
FACTORY = "own_networks:Net"
OPTIONS: dict[str, Any] = {"factory": FACTORY, "weights": "factory", "layers": ("stem", "blocks")}


def create(**options: Any) -> Any:
    return plugin.create(plugin.Config(**{**OPTIONS, **options}))


def message(kind: type[pp.PatchcoreError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        create(**options)
    return str(caught.value)


def images(height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def make(networks: Any, **arguments: Any) -> Any:
    """Return the user's network, its weights and statistics unlike those that it is made with."""
    network = networks.Net(**arguments).eval()
    generator = torch.Generator().manual_seed(3)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network
