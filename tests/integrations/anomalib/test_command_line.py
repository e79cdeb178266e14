"""anomalib's command line, unknown names, and a missing anomalib."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import patchcore_plugin as pp
from patchcore_plugin.integrations.anomalib import PluginPatchcore
from tests.integrations.anomalib.engines import THEIR_WARNINGS

pytestmark = [*THEIR_WARNINGS, pytest.mark.slow]


def test_command_line(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # anomalib's command line sets it
    from anomalib.cli import AnomalibCLI

    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
model:
  class_path: patchcore_plugin.integrations.anomalib.PluginPatchcore
  init_args:
    backbone: {{name: resnet18, weights: random, layers: [layer1]}}
    sampler:
      ratio: 0.05
    preprocessing: {{size: [48, 64]}}
    seed: 3
data:
  class_path: anomalib.data.MVTecAD
  init_args: {{root: {dataset.parent}, category: {dataset.name}, num_workers: 0}}
trainer: {{accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}}
default_root_dir: {tmp_path}
""",
        encoding="utf-8",
    )
    cli: Any = AnomalibCLI(["train", "--config", str(config), "--model.sampler.ratio", "0.02"])
    recipe = cli.model.model.pipeline.recipe
    assert recipe.sampler.options["ratio"] == 0.02
    assert recipe.sampler.options["seed"] == 3
    assert "image_AUROC" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        AnomalibCLI(["train", "--model.help", "patchcore_plugin.integrations.anomalib.PluginPatchcore"])
    help_text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "--model.sampler SAMPLER Another sampler's name" in help_text
    assert "--model.precision {fp32,bf16}" in help_text


def test_unknown_names_are_refused() -> None:
    with pytest.raises(pp.OptionError, match="unknown recipe 'patchcor'; did you mean 'patchcore'"):
        PluginPatchcore("patchcor")
    with pytest.raises(pp.PatchcoreError, match="greedy-coreset"):
        PluginPatchcore(sampler="greedy-corset")


def test_without_anomalib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anomalib", None)
    monkeypatch.delitem(sys.modules, "patchcore_plugin.integrations.anomalib")
    with pytest.raises(ImportError, match=r"needs anomalib; pip install 'patchcore-plugin\[anomalib\]'$"):
        importlib.import_module("patchcore_plugin.integrations.anomalib")
