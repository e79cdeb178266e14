"""The main job on two reduced MVTec AD categories, where they are at hand; they are not shipped (CC BY-NC-SA)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from patchcore_plugin import cli
from tests import real_images

pytestmark = real_images.needed


@pytest.mark.parametrize(
    ("category", "image_auroc", "pixel_auroc"), [("hazelnut_reduced", 0.93, 0.98), ("transistor_reduced", 0.99, 0.93)]
)
def test_evaluate(
    category: str,
    image_auroc: float,
    pixel_auroc: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [
        "evaluate",
        str(real_images.DATA / category),
        "--backbone",
        "efficientnet-lite0",
        "--out",
        str(tmp_path),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["patchcore", *command])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 0
    figures = json.loads(capsys.readouterr().out)["categories"][category]
    assert figures["image_auroc"] >= image_auroc
    assert figures["pixel_auroc"] >= pixel_auroc
    assert 0.8 < figures["aupro"] <= 1
    assert (tmp_path / "report.html").stat().st_size > 100_000
