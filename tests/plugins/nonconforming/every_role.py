"""Faults of components of all roles: base classes that are put before the sound component of a role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

import patchcore_plugin as pp

from .sound import SOUND, Backbone, breaks


def change(tensors: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return the arguments of a component with each tensor changed."""
    if isinstance(tensors, Tensor):
        return function(tensors)
    if isinstance(tensors, pp.Patches):
        return replace(tensors, grid=function(tensors.grid))
    return [function(tensor) for tensor in tensors]


class WritesIntoItsInput:
    def __call__(self, tensors: Any) -> Any:
        change(tensors, lambda tensor: tensor.add_(1))
        return super().__call__(tensors)  # type: ignore[misc]


class CountsItsCalls:
    calls = 0

    def __call__(self, tensors: Any) -> Any:
        self.calls += 1
        return super().__call__(change(tensors, lambda tensor: tensor * (-1) ** self.calls))  # type: ignore[misc]


class DiffersFromItsTwin:
    created: ClassVar[int] = 0

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        type(self).created += 1
        self.sign = (-1) ** type(self).created

    def __call__(self, tensors: Any) -> Any:
        return super().__call__(change(tensors, lambda tensor: tensor * self.sign))  # type: ignore[misc]


class SeedsTheProcess:
    def __call__(self, tensors: Any) -> Any:
        torch.manual_seed(0)
        return super().__call__(tensors)  # type: ignore[misc]


class LooksAtTheBatch:
    def __call__(self, tensors: Any) -> Any:
        return super().__call__(change(tensors, lambda tensor: tensor - tensor.mean(dim=0)))  # type: ignore[misc]


class BreaksAtItsLimit:
    def __call__(self, tensors: Any) -> Any:
        _ = 1 // (self.step - 1)  # type: ignore[attr-defined]
        return super().__call__(tensors)  # type: ignore[misc]


class CannotBeCreated:
    def __init__(self, config: Any) -> None:
        raise KeyError("weights")


for role, sound in SOUND.items():
    for fault, title, fact in (
        (CannotBeCreated, "can-be-created", "KeyError: 'weights'"),
        (WritesIntoItsInput, "input-stays-unchanged", "tensors changed"),
        (CountsItsCalls, "calls-are-repeatable", "two calls"),
        (DiffersFromItsTwin, "equal-options-give-equal-results", "equal options"),
        (SeedsTheProcess, "process-stays-unchanged", "torch's random state"),
        (LooksAtTheBatch, "images-are-independent", "image 0"),
        (BreaksAtItsLimit, "lower-limits-work", "ZeroDivisionError"),
    ):
        if (role, title) not in (("sampler", "images-are-independent"), ("backbone", "lower-limits-work")):
            breaks(role, title, fact)(type(fault.__name__, (fault, sound), {}))

breaks("scorer", "can-be-created", "builtin_function_or_method")(lambda config: len)
breaks("backbone", "can-be-created", "to() to return the backbone, found NoneType")(
    type("StaysWhereItIs", (Backbone,), {"to": lambda self, device: None})
)
