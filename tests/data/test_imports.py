"""Modules of `data` load no more than they need."""

from __future__ import annotations

import subprocess
import sys

import pytest

import patchcore_plugin.data as data


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("images datasets thumbnails video synthetic", "torch"),
        ("datasets", "torch cv2 numpy PIL"),
    ],
)
def test_importing_stays_light(modules: str, unwanted: str) -> None:
    imports = ", ".join(f"patchcore_plugin.data.{module}" for module in modules.split())
    code = f"import sys, {imports}; print([m for m in {unwanted.split()} if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert process.stdout.strip() == "[]"


def test_package_exports_functions_lazily() -> None:
    assert set(data.__all__) <= set(dir(data))
    assert all(callable(getattr(data, name)) for name in data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        data.nothing  # noqa: B018
