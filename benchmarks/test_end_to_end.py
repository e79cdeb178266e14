"""What times whole predictions, on the CPU and small; `gpu` times them on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks._end_to_end import predictions_and_backbone
from patchcore_plugin.plugins.backbones import StagedBackbone


def test_the_backbone_alone_sees_as_many_images_as_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, alone = predictions_and_backbone(tmp_path, 11, device="cpu", precision="fp32", backbone="resnet18", train=2)
    seen: list[int] = []
    original = StagedBackbone.__call__

    def counted(self: StagedBackbone, images: Any) -> Any:
        seen.append(len(images))
        return original(self, images)

    monkeypatch.setattr(StagedBackbone, "__call__", counted)
    assert len(judge()) == 11
    judged = seen.copy()
    alone()
    assert seen == 2 * judged
    assert sum(judged) == 11
