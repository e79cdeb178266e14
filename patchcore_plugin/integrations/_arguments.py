"""Check the arguments of the scikit-learn estimator, and convert them to those of the detector."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from patchcore_plugin.errors import OptionError, PatchcoreError
from patchcore_plugin.plugins.specs import ROLES


class ArgumentError(PatchcoreError, ValueError):
    """A parameter or image that cannot be used; a ValueError, because scikit-learn expects one."""


@contextmanager
def as_value_error() -> Iterator[None]:
    """Raise errors of the package as `ArgumentError` with the same message."""
    try:
        yield
    except ArgumentError:
        raise
    except PatchcoreError as error:
        raise ArgumentError(str(error)) from error


def change(part: str, value: object) -> dict[str, Any]:
    """Return the parameter of a section of the recipe as options for `Recipe.change`.

    Raises
    ------
    OptionError
        If it is neither a name nor a mapping.
    """
    if value is None:
        return {}
    if isinstance(value, str) and part in ROLES:
        return {"name": value}
    if isinstance(value, Mapping):
        return dict(value)
    expected = "a component's name or a dict of options" if part in ROLES else "a dict of options"
    raise OptionError(f"{part} must be {expected}, got {value!r}")


def fraction(contamination: object) -> float | None:
    """Return the fraction of outliers among the training images; None for "auto".

    Raises
    ------
    OptionError
        If it is not in (0, 0.5].
    """
    if isinstance(contamination, str) and contamination == "auto":
        return None
    if isinstance(contamination, int | float | np.integer | np.floating) and 0 < contamination <= 0.5:
        return float(contamination)
    raise OptionError(f"contamination must be 'auto' or a number in (0, 0.5], got {contamination!r}")


def seed(random_state: object) -> int:
    """Return the seed for a ``random_state``; a RandomState draws one.

    Raises
    ------
    OptionError
        If it is not None, an integer of 0 or more, or a RandomState.
    """
    if random_state is None:
        return 0
    if isinstance(random_state, int | np.integer) and random_state >= 0:
        return int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    raise OptionError(f"random_state must be None, an integer of 0 or more, or a RandomState, got {random_state!r}")


def images(X: Any) -> list[Any]:
    """Return X as a list of at least one path or array, [H, W] or [H, W, C].

    Raises
    ------
    ArgumentError
        If X is not a sequence of images.
    """
    expected = "X must be images: an array [N, H, W, 3] or [N, H, W], or a sequence of such images or of paths"
    if isinstance(X, str | os.PathLike):
        raise ArgumentError(f"{expected}; got a single path, {os.fspath(X)!r}")
    shape = getattr(X, "shape", None)
    if shape is not None and not _holds_images(X, shape):
        hint = "; for a single image, pass image[None]" if len(shape) == 3 else ""
        raise ArgumentError(f"{expected}; got {type(X).__name__} of shape {list(shape)}{hint}")
    items = [item if isinstance(item, str | os.PathLike) else np.asarray(item) for item in X]
    if not items:
        raise ArgumentError("X has 0 samples; pass at least one image")
    for number, item in enumerate(items):
        if isinstance(item, np.ndarray) and item.ndim not in (2, 3):
            raise ArgumentError(f"{expected}; got X[{number}] of {item.dtype} and shape {list(item.shape)}")
    return items


def _holds_images(X: Any, shape: tuple[int, ...]) -> bool:
    if len(shape) == 1:
        return np.asarray(X).dtype.kind in "OUT"  # objects and strings
    # A last axis of up to four values is that of the channels of a single image.
    return len(shape) == 4 or (len(shape) == 3 and shape[2] > 4)
