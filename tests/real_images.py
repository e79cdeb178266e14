"""Reduced MVTec AD categories, if they are available. Their licence does not allow shipping them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("PATCHCORE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Folder of the categories `hazelnut_reduced` and `transistor_reduced`; PATCHCORE_TEST_DATA overrides it."""

needed = pytest.mark.skipif(not DATA.is_dir(), reason="the reduced MVTec AD categories are not available")
