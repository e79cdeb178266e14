from __future__ import annotations

import pytest

import patchcore_plugin as pp
from tests.integrations.sklearn.pixels import EXTRA


@pytest.fixture(scope="session")
def host() -> pp.Host:
    return pp.Host(extra=EXTRA)


@pytest.fixture(autouse=True)
def pixels(host: pp.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the plugin of `pixels` for the adapter."""
    monkeypatch.setattr("patchcore_plugin.integrations.sklearn.default_host", lambda: host)
