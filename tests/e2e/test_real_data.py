"""Evaluation of two reduced MVTec AD categories, if they are available."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import real_images
from tests.commands import run_json

pytestmark = [real_images.needed, pytest.mark.e2e]


@pytest.mark.parametrize(
    ("category", "image_auroc", "pixel_auroc"), [("hazelnut_reduced", 0.93, 0.98), ("transistor_reduced", 0.99, 0.93)]
)
def test_evaluate(category: str, image_auroc: float, pixel_auroc: float, tmp_path: Path) -> None:
    data = real_images.DATA / category
    content = run_json("evaluate", data, "--backbone", "efficientnet-lite0", "--out", tmp_path)
    metrics = content["categories"][category]
    assert metrics["image_auroc"] >= image_auroc
    assert metrics["pixel_auroc"] >= pixel_auroc
    assert 0.8 < metrics["aupro"] <= 1
    assert (tmp_path / "report.html").stat().st_size > 100_000
