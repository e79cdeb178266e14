"""What components of every role can do wrong: put before the sound one of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

import patchcore_plugin as pp

from .sound import SOUND, Backbone, breaks


def changed(given: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return what a component is called with, each tensor changed."""
    if isinstance(given, Tensor):
        return function(given)
    if isinstance(given, pp.Patches):
        return replace(given, grid=function(given.grid))
    return [function(each) for each in given]


class WritesIntoItsInput:
    def __call__(self, given: Any) -> Any:
        changed(given, lambda tensor: tensor.add_(1))
        return super().__call__(given)  # type: ignore[misc]


class CountsItsCalls:
    calls = 0

    def __call__(self, given: Any) -> Any:
        self.calls += 1
        return super().__call__(changed(given, lambda tensor: tensor * (-1) ** self.calls))  # type: ignore[misc]


class DiffersFromItsTwin:
    made: ClassVar[int] = 0

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        type(self).made += 1
        self.sign = (-1) ** type(self).made

    def __call__(self, given: Any) -> Any:
        return super().__call__(changed(given, lambda tensor: tensor * self.sign))  # type: ignore[misc]


class SeedsTheProcess:
    def __call__(self, given: Any) -> Any:
        torch.manual_seed(0)
        return super().__call__(given)  # type: ignore[misc]


class LooksAtTheBatch:
    def __call__(self, given: Any) -> Any:
        return super().__call__(changed(given, lambda tensor: tensor - tensor.mean(dim=0)))  # type: ignore[misc]


class BreaksAtItsLimit:
    def __call__(self, given: Any) -> Any:
        _ = 1 // (self.step - 1)  # type: ignore[attr-defined]
        return super().__call__(given)  # type: ignore[misc]


class NeverMade:
    def __init__(self, config: Any) -> None:
        raise KeyError("weights")


TENSORS = {"backbone": 1, "aggregator": 2, "sampler": 1, "scorer": 4}
TWICE = "keep nothing between calls; switch networks to eval(); draw from a generator made anew from the seed"
for role, sound in SOUND.items():
    for fault, title, message in (
        (
            NeverMade,
            "can-be-made",
            "expected create to return a component, or to raise a PatchcoreError that says what is missing, "
            "found KeyError: 'weights'; mend create",
        ),
        (
            WritesIntoItsInput,
            "input-stays-unchanged",
            f"expected its input unchanged, found {2 if role == 'aggregator' else 1} of {TENSORS[role]} tensors "
            "changed; work on a copy",
        ),
        (CountsItsCalls, "same-answer-twice", f"expected equal answers from two calls, found different ones; {TWICE}"),
        (
            DiffersFromItsTwin,
            "equal-options-equal-answer",
            "expected equal answers from two that are made alike, found different ones; "
            "draw from a generator made from an option called seed",
        ),
        (
            SeedsTheProcess,
            "process-stays-unchanged",
            "expected the process left as it was, found torch's random state changed; "
            "use a torch.Generator of your own, and leave alone what belongs to the process",
        ),
        (
            LooksAtTheBatch,
            "images-are-independent",
            "expected an image alone to give what it gives in a batch, found another answer for image 0; "
            "compute nothing across the batch dimension",
        ),
        (
            BreaksAtItsLimit,
            "works-at-its-lower-limits",
            "expected an answer, or a PatchcoreError, with option 'step' = 1, which its type allows, found "
            "ZeroDivisionError: integer division or modulo by zero; raise the limit, or mend this case",
        ),
    ):
        if (role, title) not in (("sampler", "images-are-independent"), ("backbone", "works-at-its-lower-limits")):
            breaks(role, title, message)(type(fault.__name__, (fault, sound), {}))

breaks(
    "scorer",
    "can-be-made",
    "expected create to return a Scorer, found builtin_function_or_method; "
    "return an object with all members of the role; see patchcore_plugin.plugins.protocols",
)(lambda config: len)
breaks("backbone", "can-be-made", "expected to() to return the backbone, found NoneType; return self")(
    type("StaysWhereItIs", (Backbone,), {"to": lambda self, device: None})
)
