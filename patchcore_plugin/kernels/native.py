"""Whether the compiled kernels of the distribution patchcore-native are here; without importing torch."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

SWITCH = "PATCHCORE_COMPILED"
"""Environment variable: 0 leaves the compiled kernels aside; 1 takes them even where torch is probably faster."""


def native() -> Any:
    """Return the module patchcore_native, with its library loaded, or None where it is not to be used."""
    module, switch = _module(), os.environ.get(SWITCH)
    if module is None or switch == "0" or (switch != "1" and not module.library().patchcore_using()):
        return None
    return module


@lru_cache(maxsize=1)
def _module() -> Any:
    try:
        import patchcore_native

        patchcore_native.library()
    except (ImportError, OSError):
        return None
    return patchcore_native


def description(device: str = "cpu") -> str:
    """Say which kernels run on a kind of device, such as "compiled (AVX2)"."""
    if device == "cuda" and find_spec("triton") is not None:
        return "Triton"
    module = native() if device == "cpu" else None
    return "torch" if module is None else f"compiled ({module.instructions()})"
