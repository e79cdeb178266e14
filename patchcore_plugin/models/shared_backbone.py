"""One backbone at work for several compositions: what they have in common is computed once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from patchcore_plugin.plugins.manager import Host
from patchcore_plugin.plugins.protocols import Backbone

from .recipes.recipe import Choice


class SharedBackbone:
    """A backbone that computes equal images once, as long as it is told to remember.

    Parameters
    ----------
    backbone
        What computes.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.mean, self.std = backbone.mean, backbone.std
        self._memory = threading.local()

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Remember all images of this thread until the end of the block, tiles of an image for example."""
        self._memory.known = []
        try:
            yield
        finally:
            del self._memory.known

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Return the feature maps of normalised images [B, 3, H, W], as the backbone does."""
        known: list[tuple[Tensor, Sequence[Tensor]]] | None = getattr(self._memory, "known", None)
        if known is None:
            return self._backbone(images)
        for before, maps in known:
            if torch.equal(before, images):
                return maps
        maps = self._backbone(images)
        known.append((images, maps))
        return maps

    def to(self, device: torch.device | str) -> SharedBackbone:
        """Move the weights to `device` and return the backbone."""
        self._backbone = self._backbone.to(device)
        return self

    def weight_hash(self) -> str:
        """Return that of the backbone."""
        return self._backbone.weight_hash()


class Selection:
    """All, or some, of the feature maps of a shared backbone, as of a backbone of its own.

    Parameters
    ----------
    shared
        What computes.
    weight_hash
        Returns the hash of the backbone of its own. A model file is bound to that, so that it can be read whatever else
        shares a backbone with it then.
    index
        Which of its maps, ascending; None for all.
    """

    def __init__(
        self, shared: SharedBackbone, weight_hash: Callable[[], str], index: Sequence[int] | None = None
    ) -> None:
        self.shared = shared
        self.mean, self.std = shared.mean, shared.std
        self._weight_hash = weight_hash
        self._index = index

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Return these maps of normalised images [B, 3, H, W]."""
        maps = self.shared(images)
        return maps if self._index is None else [maps[number] for number in self._index]

    def to(self, device: torch.device | str) -> Selection:
        """Move the weights to `device` and return the backbone."""
        self.shared.to(device)
        return self

    def weight_hash(self) -> str:
        """Return that of the backbone of its own."""
        return self._weight_hash()


def shared_backbones(choices: Sequence[Choice], host: Host) -> list[Selection]:
    """Return the backbones of several compositions, made once where they can be shared.

    Equal choices share one. So do choices that differ in their option ``layers`` alone, names of feature maps: it then
    has the layers of all, and says in its attribute ``layers`` which map is which.

    Parameters
    ----------
    choices
        Backbones with all their options, as in a resolved recipe.
    host
        Where they come from.
    """
    selections: dict[int, Selection] = {}
    for alike in _grouped(choices, lambda choice: (choice.name, _without_layers(choice.options))):
        united = _united([choices[number] for number in alike], host)
        if united is not None:
            selections |= zip(alike, united, strict=True)
            continue
        for equal in _grouped([choices[number] for number in alike], lambda choice: (choice.name, choice.options)):
            first = choices[alike[equal[0]]]
            shared = SharedBackbone(_made(first.name, first.options, host))
            selections |= {alike[number]: Selection(shared, shared.weight_hash) for number in equal}
    return [selections[number] for number in range(len(choices))]


def _united(choices: Sequence[Choice], host: Host) -> list[Selection] | None:
    """Return selections from one backbone that has the layers of all; None if there is no such backbone."""
    wanted = [choice.options["layers"] for choice in choices if isinstance(choice.options.get("layers"), (list, tuple))]
    if len(wanted) < len(choices) or all(each == wanted[0] for each in wanted):
        return None
    layers = tuple(dict.fromkeys(layer for each in wanted for layer in each))
    backbone = _made(choices[0].name, {**choices[0].options, "layers": layers}, host)
    names = list(getattr(backbone, "layers", ()))
    if sorted(names) != sorted(layers):
        return None
    shared = SharedBackbone(backbone)
    return [
        Selection(
            shared,
            functools.partial(_hash_of, choice, host),
            [number for number, name in enumerate(names) if name in choice.options["layers"]],
        )
        for choice in choices
    ]


def _hash_of(choice: Choice, host: Host) -> str:
    return _made(choice.name, choice.options, host).weight_hash()


def _made(name: str, options: Mapping[str, Any], host: Host) -> Backbone:
    backbone: Backbone = host.build("backbone", name, host.configure("backbone", name, options))
    return backbone


def _without_layers(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "layers"}


def _grouped(choices: Sequence[Choice], key: Callable[[Choice], object]) -> list[list[int]]:
    """Return the numbers of choices with equal keys, group by group, in the order in which they come first."""
    keys = [key(choice) for choice in choices]
    firsts = [number for number, each in enumerate(keys) if keys.index(each) == number]
    return [[number for number, each in enumerate(keys) if each == keys[first]] for first in firsts]
