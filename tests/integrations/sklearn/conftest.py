from __future__ import annotations

import functools

import pytest

import patchcore_plugin as pp
from tests.integrations.sklearn.pixels import EXTRA


@pytest.fixture(autouse=True)
def pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the plugin of `pixels` for the adapter."""
    monkeypatch.setattr("patchcore_plugin.integrations.sklearn.Host", functools.partial(pp.Host, extra=EXTRA))
