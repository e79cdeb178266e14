"""Fixtures for the tests of all distributions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


class Trap:
    """A weights file whose pickle creates a file when it is run."""

    def __init__(self, folder: Path) -> None:
        import torch

        self.file, self._trace = folder / "trap.pth", folder / "trace"
        torch.save({"layer": self}, self.file)

    def __reduce__(self) -> Any:
        return Path.touch, (self._trace,)

    def is_sprung(self) -> bool:
        """Return whether the pickle was run."""
        return self._trace.exists()


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    """Return a trap in the folder of the test."""
    return Trap(tmp_path)
