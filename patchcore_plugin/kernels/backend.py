"""Backends: implementations of one kernel that return the same bits at different speeds.

A kernel lists its backends in a tuple, fastest first. The first usable one serves a call; the last one serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec, TypeVar

from ._native import native, rejection

if TYPE_CHECKING:
    from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Backend(Generic[P, R]):
    """One implementation of a kernel.

    Parameters
    ----------
    name
        Unique among the backends of the kernel.
    usable
        Return whether the backend can serve a call, from the tensor that calls share and the arguments of the call.
    prepare
        Return the function that serves calls, from the tensor that calls share.
    """

    name: str
    usable: Callable[Concatenate[Tensor, P], bool]
    prepare: Callable[[Tensor], Callable[P, R]]


def usable_backends(
    backends: Sequence[Backend[P, R]], shared: Tensor, *args: P.args, **kwargs: P.kwargs
) -> Iterator[Backend[P, R]]:
    """Yield the backends that can serve a call, in order.

    Parameters
    ----------
    backends
        Those of the kernel, fastest first.
    shared
        The tensor that calls share, such as a memory bank [M, D].
    *args, **kwargs
        The arguments of the call.
    """
    return (backend for backend in backends if backend.usable(shared, *args, **kwargs))


def describe(device: str = "cpu") -> str:
    """Return which backends run on a type of device, without importing torch.

    Parameters
    ----------
    device
        "cpu" or "cuda".

    Returns
    -------
    str
        Such as "Triton", "compiled (AVX2)" or "torch". If patchcore-native is installed but was rejected, the reason
        follows: "torch (patchcore-native has interface version 7, expected 1; reinstall it)".
    """
    if device == "cuda" and find_spec("triton") is not None:
        return "Triton"
    if device != "cpu":
        return "torch"
    module = native()
    if module is not None:
        return f"compiled ({module.instructions()})"
    reason = rejection()
    return f"torch ({reason})" if reason else "torch"
