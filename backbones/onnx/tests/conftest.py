from __future__ import annotations

from pathlib import Path

import pytest

from .networks import draw


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return draw(tmp_path / "net.onnx")
