"""Comparing tensors, and what a component must leave as it was."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .subject import Subject

ROUNDING = 1e-3
"""Largest difference that counts as rounding, in units of the largest value; TF32 and bfloat16 matter on a GPU."""


def seeded(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """Return normally distributed float32 values that depend on `seed` alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def describe(value: object) -> str:
    """Return what something is, for a message: dtype, shape and device of a tensor, the type of anything else."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"


def identical(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Tell whether tensors are equal, in number, dtype, shape and value."""
    return len(first) == len(second) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )


def alike(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Tell whether floating tensors are equal up to rounding."""
    return len(first) == len(second) and all(
        a.shape == b.shape and bool(((a - b).abs() <= ROUNDING * b.abs().amax()).all())
        for a, b in zip(first, second, strict=True)
    )


def changes_at_the_lower_left(before: Tensor, after: Tensor) -> bool:
    """Tell whether maps [B, C, h, w] differ more at the lower left than at the upper right, its mirror image.

    Maps of fewer than two rows or columns have no corners, and differ as they like.
    """
    change = (after - before).abs().mean(dim=(0, 1))
    height, width = change.shape
    lower_left = change[height - height // 2 :, : width // 2]
    upper_right = change[: height // 2, width - width // 2 :]
    return min(height, width) < 2 or bool(lower_left.mean() > upper_right.mean())


def is_finite(it: Subject, what: str, value: Any, dims: str, shape: Sequence[int | None]) -> None:
    """Expect a floating, finite tensor on the device; None in `shape` is any length from 1 on."""
    it.expect(
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.device.type == torch.device(it.device).type
        and value.ndim == len(shape)
        and all(got == wanted or (wanted is None and got > 0) for got, wanted in zip(value.shape, shape, strict=True)),
        f"{what} to be a floating tensor {dims} on {it.device}",
        describe(value),
        "return that",
    )
    it.expect(bool(torch.isfinite(value).all()), f"{what} to be finite", "NaN or infinity", "find where they come from")


def _numpy_state() -> list[Any]:
    # The process's own state is what has to be left alone.
    state: Any = np.random.get_state()  # noqa: NPY002
    return [each.tolist() if isinstance(each, np.ndarray) else each for each in state]


def _set_numpy_state(state: list[Any]) -> None:
    np.random.set_state(tuple(state))  # noqa: NPY002


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


SURROUNDINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
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
"""What belongs to the process, by name: how to read it and how to put it back."""


@contextlib.contextmanager
def nothing_changes() -> Iterator[list[str]]:
    """Put the surroundings back as they were; the list then names what was changed."""
    before = {name: read() for name, (read, _) in SURROUNDINGS.items()}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, (read, put_back) in SURROUNDINGS.items():
            if read() != before[name]:
                put_back(before[name])
                changed.append(name)
