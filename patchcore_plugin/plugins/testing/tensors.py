"""Comparison of tensors, and detection of changes to the process."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .check import Subject

ROUNDING = 1e-3
"""Largest difference that counts as rounding, in units of the largest value; a GPU may use TF32 or bfloat16."""


def random_tensor(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """Return normally distributed float32 values that depend on `seed` alone.

    Parameters
    ----------
    *shape
        Lengths of the dimensions.
    seed
        Seed of the values.
    device
        Device of the result.
    """
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def describe(value: object) -> str:
    """Return dtype, shape and device of a tensor, or the type of another object, for messages."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"


def are_identical(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Return whether tensors are equal in number, dtype, shape and value.

    Parameters
    ----------
    first, second
        The tensors, in order.
    """
    return len(first) == len(second) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )


def are_close(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Return whether floating tensors are equal up to rounding.

    Parameters
    ----------
    first, second
        The floating tensors, in order.
    """
    return len(first) == len(second) and all(
        a.shape == b.shape and bool(((a - b).abs() <= ROUNDING * b.abs().amax()).all())
        for a, b in zip(first, second, strict=True)
    )


def changes_at_lower_left(before: Tensor, after: Tensor) -> bool:
    """Return whether maps [B, C, h, w] differ more at the lower left than at the upper right.

    Always true for maps with fewer than two rows or columns.

    Parameters
    ----------
    before, after
        Maps of one shape, [B, C, h, w].
    """
    change = (after - before).abs().mean(dim=(0, 1))
    height, width = change.shape
    lower_left = change[height - height // 2 :, : width // 2]
    upper_right = change[: height // 2, width - width // 2 :]
    return min(height, width) < 2 or bool(lower_left.mean() > upper_right.mean())


def expect_finite(subject: Subject, name: str, value: Any, dims: str, shape: Sequence[int | None]) -> None:
    """Expect a floating, finite tensor on the device of the check.

    Parameters
    ----------
    subject
        The component to check.
    name
        Name of the tensor, for messages.
    value
        The tensor.
    dims
        Its dimensions, for messages, such as "[B, h, w]".
    shape
        Length of each dimension; None for any length from 1.
    """
    subject.expect(
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.device.type == torch.device(subject.device).type
        and value.ndim == len(shape)
        and all(
            length == expected or (expected is None and length > 0)
            for length, expected in zip(value.shape, shape, strict=True)
        ),
        f"{name} to be a floating tensor {dims} on {subject.device}",
        describe(value),
        "return such a tensor",
    )
    subject.expect(bool(torch.isfinite(value).all()), f"{name} to be finite", "NaN or infinity", "find their cause")


def _numpy_state() -> list[Any]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in state]


def _set_numpy_state(state: list[Any]) -> None:
    np.random.set_state(tuple(state))  # noqa: NPY002


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "Python's random state": (random.getstate, random.setstate),
    "NumPy's random state": (_numpy_state, _set_numpy_state),
    "torch's random state": (
        lambda: torch.get_rng_state().tolist(),
        lambda state: torch.set_rng_state(torch.tensor(state, dtype=torch.uint8)),
    ),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic mode": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch's float32 precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "cuDNN's benchmark mode": (
        lambda: torch.backends.cudnn.benchmark,
        lambda value: setattr(torch.backends.cudnn, "benchmark", value),
    ),
    "the environment": (lambda: dict(os.environ), _set_environment),
    "the working folder": (os.getcwd, os.chdir),
}
"""State of the process by name, with functions that read and restore it."""


@contextlib.contextmanager
def detect_changes() -> Iterator[list[str]]:
    """Restore the state of the process afterwards; the list then has the names of the changed settings."""
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    changes: list[str] = []
    try:
        yield changes
    finally:
        for name, (read, restore) in SETTINGS.items():
            if read() != before[name]:
                restore(before[name])
                changes.append(name)
