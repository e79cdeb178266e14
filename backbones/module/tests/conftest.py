from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import patchcore_module as plugin
import pytest
import torch

from .networks import FACTORY, SOURCE, make


@pytest.fixture(autouse=True)
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A user's module with networks, on the path; the user allows what it has."""
    (tmp_path / "own_networks.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(plugin.ALLOWED, f"something:else, {FACTORY},own_networks:broken,own_networks:number")
    import own_networks  # type: ignore[import-not-found]  # written above

    yield own_networks
    del sys.modules["own_networks"]


@pytest.fixture
def whole(networks: Any, tmp_path: Path) -> Path:
    torch.save(make(networks).state_dict(), tmp_path / "whole.pth")
    return tmp_path / "whole.pth"
