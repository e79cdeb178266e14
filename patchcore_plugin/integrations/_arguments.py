"""What a scikit-learn user passes, as what the detector takes; what is wrong with it is a ValueError."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from patchcore_plugin.errors import OptionError, PatchcoreError
from patchcore_plugin.plugins.specs import ROLES


class ArgumentError(PatchcoreError, ValueError):
    """A parameter or image that cannot be used: a ValueError, as scikit-learn expects it."""


@contextmanager
def as_value_error() -> Iterator[None]:
    """Raise whatever a user can mend as an `ArgumentError` of the same words: it came in as a parameter or an image."""
    try:
        yield
    except ArgumentError:
        raise
    except PatchcoreError as error:
        raise ArgumentError(str(error)) from error


def change(part: str, value: object) -> dict[str, Any]:
    """Return the parameter of a role, of "preprocessing" or "map" as the options that `Recipe.change` takes."""
    if value is None:
        return {}
    if isinstance(value, str) and part in ROLES:
        return {"name": value}
    if isinstance(value, Mapping):
        return dict(value)
    wanted = "a component's name or a dict of options" if part in ROLES else "a dict of options"
    raise OptionError(f"{part} must be {wanted}, got {value!r}")


def fraction(contamination: object) -> float | None:
    """Return the share of outliers in the training images; None for "auto"."""
    if isinstance(contamination, str) and contamination == "auto":
        return None
    if isinstance(contamination, int | float | np.integer | np.floating) and 0 < contamination <= 0.5:
        return float(contamination)
    raise OptionError(f"contamination must be 'auto' or a number in (0, 0.5], got {contamination!r}")


def seed(random_state: object) -> int:
    """Return the seed that a ``random_state`` stands for; a RandomState is drawn from."""
    if random_state is None:
        return 0
    if isinstance(random_state, int | np.integer) and random_state >= 0:
        return int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    raise OptionError(f"random_state must be None, an integer of 0 or more, or a RandomState, got {random_state!r}")


def images(X: Any) -> list[Any]:
    """Return X as a list of paths and arrays [H, W] or [H, W, C]; at least one."""
    expected = "X must be images: an array [N, H, W, 3] or [N, H, W], or a sequence of such images or of paths"
    if isinstance(X, str | os.PathLike):
        raise ArgumentError(f"{expected}; got a single path, {os.fspath(X)!r}")
    shape = getattr(X, "shape", None)
    if shape is not None and not _holds_images(X, shape):
        hint = "; of a single image, pass image[None]" if len(shape) == 3 else ""
        raise ArgumentError(f"{expected}; got {type(X).__name__} of shape {list(shape)}{hint}")
    found = [item if isinstance(item, str | os.PathLike) else np.asarray(item) for item in X]
    if not found:
        raise ArgumentError("X has 0 samples; pass at least one image")
    for number, item in enumerate(found):
        if isinstance(item, np.ndarray) and item.ndim not in (2, 3):
            raise ArgumentError(f"{expected}; got X[{number}] of {item.dtype} and shape {list(item.shape)}")
    return found


def _holds_images(X: Any, shape: tuple[int, ...]) -> bool:
    if len(shape) == 1:
        return np.asarray(X).dtype.kind in "OUT"  # objects and strings
    # With three numbers a pixel it is a single image [H, W, 3], not H grey ones that are three pixels wide.
    return len(shape) == 4 or (len(shape) == 3 and shape[2] > 4)
