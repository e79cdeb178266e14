"""`patchcore export-backbone`: the file, the summary, and options that are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin import Host
from tests.commands import patchcore, run_command

pytest.importorskip("patchcore_onnx", reason="the ONNX backbone is not installed")


@pytest.mark.slow
def test_fixed_image_size(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    host = Host()
    file = tmp_path / "new" / "features.onnx"
    arguments = ["--backbone", "resnet18", "--set", "backbone.weights=random", "--set", "backbone.layers=layer1,"]
    ended = run_command("export-backbone", *arguments, "--out", file, "--size", "40,56", "--seed", 3, "--json")
    assert ended.err == ""
    assert capfd.readouterr() == ("", "")  # libraries print nothing either
    summary = json.loads(ended.out)
    assert 0 < summary.pop("largest_relative_difference") < 1e-4
    expected = host.create("backbone", "resnet18", weights="random", layers=("layer1",), seed=3)
    assert summary == {
        "file": str(file),
        "maps": ["layer1"],
        "size": [40, 56],
        "weight_hash": expected.weight_hash(),
    }
    backbone = host.create("backbone", "onnx", file=str(file))
    images = torch.randn(3, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(backbone(images)[0], expected(images)[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(pp.TensorError, match=r"40 x 56.* 64 x 64.* preprocessing.size=40,56"):
        backbone(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--set", "sampler.ratio=0.1"], 1, "--set sampler.ratio=0.1: only the backbone is exported"),
        (["--set", "backbone.wights=random"], 1, "did you mean 'weights'?"),
        (["--size", "256"], 2, "HEIGHT,WIDTH"),
        (["--size", "0,256"], 2, "HEIGHT,WIDTH"),
    ],
)
def test_invalid_options_are_refused(
    arguments: Sequence[str],
    code: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ended = patchcore("export-backbone", *arguments, "--out", tmp_path / "f.onnx")
    assert ended.code == code
    assert text in ended.err
    assert not list(tmp_path.iterdir())


@pytest.mark.e2e
def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['patchcore', 'export-backbone', '--help']\n"
        "from patchcore_plugin.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, capture_output=True)
