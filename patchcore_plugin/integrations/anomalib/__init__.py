"""The plugin host as a model of anomalib: any recipe in its engine, data modules, metrics and command line.

Needs the extra ``anomalib``. The class is `PluginPatchcore`; anomalib finds it by this module's name.
"""

from __future__ import annotations

import warnings
from importlib import import_module

try:
    # anomalib imports parts of itself and of timm that they call deprecated, which users of this package cannot change.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for name in ("anomalib", "anomalib.models"):
            import_module(name)
except ModuleNotFoundError as error:
    if error.name != "anomalib":
        raise
    raise ImportError(
        "patchcore_plugin.integrations.anomalib needs anomalib; pip install 'patchcore-plugin[anomalib]'"
    ) from error

from .module import PluginPatchcore

__all__ = ["PluginPatchcore"]
