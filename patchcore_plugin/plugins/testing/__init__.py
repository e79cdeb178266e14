"""What a component must do, as checks that a plugin's own tests run.

Three lines in a test file::

    import my_plugin
    from patchcore_plugin.plugins.testing import parametrize_checks

    @parametrize_checks(my_plugin)
    def test_conformance(check):
        check()

What is wrong is told as a `ConformanceError`, one line that says what was expected, what was found, and what to do.
"""

from __future__ import annotations

from .collection import checks, component_checks, parametrize_checks
from .subject import CannotBeMadeError, Check, ConformanceError

__all__ = [
    "CannotBeMadeError",
    "Check",
    "ConformanceError",
    "checks",
    "component_checks",
    "parametrize_checks",
]
