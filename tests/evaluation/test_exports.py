"""The names that the package exports on first use."""

from __future__ import annotations

import importlib
import inspect

import pytest

from patchcore_plugin import evaluation


@pytest.mark.parametrize("name", evaluation.__all__)
def test_exported_name_is_a_function_or_class(name: str) -> None:
    value = getattr(evaluation, name)
    assert inspect.isfunction(value) or inspect.isclass(value)
    assert getattr(importlib.import_module(value.__module__), name) is value


def test_unknown_name_raises() -> None:
    with pytest.raises(AttributeError, match="typo"):
        _ = evaluation.typo
