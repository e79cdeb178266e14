"""Real photos, where they are beside the checkout: reduced MVTec AD categories, whose licence forbids to ship them."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"
"""The folder of the categories `hazelnut_reduced` and `transistor_reduced`."""

needed = pytest.mark.skipif(not DATA.is_dir(), reason="the reduced MVTec AD categories are not here")
