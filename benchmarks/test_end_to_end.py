"""The functions that time predictions, run on the CPU with small inputs; `gpu` times them on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks._end_to_end import predictions_and_backbone
from patchcore_plugin.plugins.backbones import StagedBackbone


def test_the_backbone_alone_processes_as_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict, alone = predictions_and_backbone(
        tmp_path, 11, device="cpu", precision="fp32", backbone="resnet18", train=2
    )
    batches: list[int] = []
    original = StagedBackbone.__call__

    def count_images(self: StagedBackbone, images: Any) -> Any:
        batches.append(len(images))
        return original(self, images)

    monkeypatch.setattr(StagedBackbone, "__call__", count_images)
    assert len(predict()) == 11
    predicted = batches.copy()
    alone()
    assert batches == 2 * predicted
    assert sum(predicted) == 11
