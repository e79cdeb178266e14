"""Loads the compiled kernels of the distribution patchcore-native, without importing torch."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from patchcore_plugin.errors import one_line

SWITCH = "PATCHCORE_COMPILED"
"""Environment variable: 0 disables the compiled kernels; 1 uses them even where torch is probably faster."""
INTERFACE = 1
"""Version of the C interface that this package calls."""


def native() -> Any:
    """Return the module patchcore_native with its library loaded, or None if `unavailable` gives a reason."""
    return None if unavailable() else _load()[0]


def unavailable() -> str:
    """Return why the compiled kernels do not run in this process; empty if they do."""
    module, reason = _load()
    switch = os.environ.get(SWITCH)
    if switch == "0":
        return f"{SWITCH} is 0"
    if module is None:
        return reason or "patchcore-native is not installed"
    if switch != "1" and not module.library().patchcore_using():
        return f"torch is probably faster on this processor; {SWITCH}=1 uses them anyway"
    return ""


def rejection() -> str:
    """Return why an installed patchcore-native cannot be used; empty if it can, is missing or is disabled."""
    return "" if os.environ.get(SWITCH) == "0" else _load()[1]


@lru_cache(maxsize=1)
def _load() -> tuple[Any, str]:
    """Return the module and "", or None and the reason; the reason is empty if the distribution is not installed."""
    try:
        import patchcore_native as module

        # The version comes first: another version may lack symbols, or give them other arguments.
        version = getattr(module, "VERSION", None)
        if version == INTERFACE:
            version = module.library().patchcore_version()
    except ModuleNotFoundError as error:
        return None, "" if error.name == "patchcore_native" else f"patchcore-native cannot be loaded: {one_line(error)}"
    except Exception as error:  # a module of the same name from elsewhere may raise anything
        return None, f"patchcore-native cannot be loaded: {one_line(error)}"
    if version != INTERFACE:
        return None, f"patchcore-native has interface version {version}, expected {INTERFACE}; reinstall it"
    return module, ""
