"""The compiled kernels of patchcore-plugin, behind a plain C interface that is called through ctypes.

`library` loads them once. Its functions release the global interpreter lock, start no threads and hold no state: all
arrays belong to the caller. kernels.h describes them. `patchcore_plugin.kernels` calls them.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from pathlib import Path

__all__ = [
    "INSTRUCTIONS",
    "LANES",
    "LINK",
    "MAX_CELLS",
    "MAX_DIMS",
    "NOWHERE",
    "VERSION",
    "Bank",
    "Coreset",
    "Queries",
    "instructions",
    "library",
]

VERSION = 1
"""Version of the C interface; `patchcore_version` returns that of the library."""
LANES, LINK, MAX_CELLS, SKETCH = 16, 64, 64, 128
MAX_DIMS = 8192
"""Largest number of values per point: the stack of a thread must hold a few rows."""
NOWHERE = -1e19
INSTRUCTIONS = ("portable", "AVX2", "AVX-512 VNNI")

_NAMES = {"darwin": "libpatchcore.dylib", "win32": "patchcore.dll"}
_pointer, _whole, _double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


class Bank(ctypes.Structure):
    """A bank of rows to search."""

    _fields_ = [
        *((name, _whole) for name in ("rows", "dims", "padded", "sketch")),
        *((name, _pointer) for name in ("vectors", "codes", "norms", "errors")),
        ("steps", _double),
        *((name, _pointer) for name in ("panels", "panel_norms", "panel_errors")),
        ("panel_steps", _double),
    ]


class Queries(ctypes.Structure):
    """Points whose nearest rows are searched."""

    _fields_ = [
        (name, _pointer)
        for name in ("vectors", "codes", "norms", "errors", "sketches", "sketch_norms", "sketch_errors")
    ]


class Coreset(ctypes.Structure):
    """A selection in progress."""

    _fields_ = [
        *((name, _whole) for name in ("count", "dims", "padded", "wanted", "cells")),
        *((name, _pointer) for name in ("points", "codes", "norms", "errors")),
        ("steps", _double),
        *((name, _pointer) for name in ("cell", "best", "bounded_by", "met", "seen")),
        ("made", _whole),
        *((name, _pointer) for name in ("picks", "values")),
        ("stop", _double),
        *((name, _pointer) for name in ("panels", "pick_norms", "pick_errors")),
        *((name, _pointer) for name in ("cell_panels", "cell_norms", "cell_errors", "cell_picks")),
        *((name, _pointer) for name in ("next", "head", "tail", "sizes")),
        ("links", _whole),
        *((f"player_{name}", _pointer) for name in ("panels", "norms", "reaches", "best", "rows")),
    ]


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """Return the library, set to the best instruction set of the processor.

    Raises
    ------
    OSError
        If the library is missing, was built for another machine, or has another version than this module.
    """
    path = Path(__file__).parent / _NAMES.get(sys.platform, "libpatchcore.so")
    loaded = ctypes.CDLL(str(path))
    # The version comes first: another version may lack the functions below, or give them other arguments.
    version = loaded.patchcore_version() if hasattr(loaded, "patchcore_version") else None
    if version != VERSION:
        raise OSError(f"{path.name} has interface version {version}, expected {VERSION}; reinstall patchcore-native")
    signatures: dict[str, tuple[object, list[object]]] = {
        "use": (ctypes.c_int, [ctypes.c_int]),
        "using": (ctypes.c_int, []),
        "levels": (ctypes.c_int, []),
        "encode": (None, [_pointer, _whole, _whole, _whole, _pointer, _double, _pointer, _pointer, _pointer]),
        "sketch": (None, [_pointer, _whole, _whole, _pointer, _pointer, _pointer, _pointer]),
        "pack": (None, [_pointer, _whole, _pointer, _whole, _pointer]),
        "nearest": (None, [_pointer, _pointer, _whole, _whole, _whole, _whole, _pointer, _pointer]),
        "distances": (None, [_pointer, _pointer, _whole, _whole, _pointer]),
        "cells": (None, [_pointer, _whole, _whole, _pointer, _pointer, _whole, _pointer]),
        "first": (_whole, [_pointer, _whole, _whole, _pointer, _pointer, _pointer, _pointer]),
        "behind": (_whole, [_pointer, _pointer, _whole, _pointer, _pointer]),
        "refresh": (_whole, [_pointer, _pointer, _whole, _double]),
        "play": (ctypes.c_int, [_pointer, _pointer, _whole, _double, _whole]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, f"patchcore_{name}")
        function.restype, function.argtypes = result, arguments
    loaded.patchcore_use(len(INSTRUCTIONS) - 1)
    return loaded


def instructions() -> str:
    """Return the name of the instruction set in use."""
    return INSTRUCTIONS[library().patchcore_using()]
