"""Real images, where they are beside the checkout: reduced MVTec AD categories, whose licence forbids to ship them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("PATCHCORE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""The folder of the categories `hazelnut_reduced` and `transistor_reduced`; set PATCHCORE_TEST_DATA for another one."""

needed = pytest.mark.skipif(not DATA.is_dir(), reason="the reduced MVTec AD categories are not here")
