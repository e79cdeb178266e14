"""Conformance checks of components, for the tests of plugins.

Three lines in a test file::

    import my_plugin
    from patchcore_plugin.plugins.testing import parametrize_checks

    @parametrize_checks(my_plugin)
    def test_conformance(check):
        check()

A check that fails raises a `ConformanceError`: one line with what was expected, what was found, and what to do.
"""

from __future__ import annotations

from .check import Check, ConformanceError, UnavailableError
from .collection import checks, component_checks, parametrize_checks

__all__ = [
    "Check",
    "ConformanceError",
    "UnavailableError",
    "checks",
    "component_checks",
    "parametrize_checks",
]
