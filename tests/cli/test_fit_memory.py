"""`fit --memory-budget` and `fit --resume`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import patchcore
from tests.models import tiny

ROOT = Path(__file__).parents[2]
KILLED = """
import sys
from patchcore_plugin import cli
import patchcore_plugin.cli.options as options
from tests.models import tiny
options.Host = lambda **_: tiny.host()
tiny.die_after.append(int(sys.argv.pop(1)))
cli.main()
"""


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the tiny backbone."""
    monkeypatch.setattr("patchcore_plugin.cli.options.Host", lambda **_: tiny.host())


def options(folder: Path) -> list[str]:
    return ["fit", str(folder), "--backbone", "tiny", "--device", "cpu", "--set", "preprocessing.size=64,64"]


def test_a_memory_budget(tmp_path: Path) -> None:
    tiny.write(tmp_path / "images", 40)
    command = [*options(tmp_path / "images"), "--out", tmp_path / "m.safetensors", "--set", "sampler.ratio=0.3"]
    within = patchcore(*command, "--json", "--memory-budget", "0.5MB")
    assert within.code == 0, within
    summary = json.loads(within.out)
    assert summary["patches_seen"] == 40 * 256
    assert summary["bank_rows"] < 0.3 * 40 * 256
    assert summary["radius_is_exact"] is False
    assert "10,240 patches" in within.err
    too_small = patchcore(*command, "--memory-budget", "0.05MB")
    assert too_small.code == 1
    assert "a memory budget of 0.1 MB is too small" in too_small.err
    assert patchcore(*command, "--memory-budget", "5").code == 2


@pytest.mark.e2e
def test_a_killed_fit_is_resumed(tmp_path: Path) -> None:
    """Images are not extracted again, and the model file is the same to the last bit."""
    tiny.write(tmp_path / "images", 50)
    command = [*options(tmp_path / "images"), "--memory-budget", "0.4MB"]
    whole, out = tmp_path / "whole.safetensors", tmp_path / "m.safetensors"
    assert patchcore(*command, "--out", whole).code == 0
    killed = [sys.executable, "-c", KILLED, "4", *command, "--out", str(out), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(killed, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(list((tmp_path / "m.safetensors.features").iterdir())) == 3
    assert not out.exists()
    tiny.extracted.clear()
    assert patchcore(*command, "--out", out, "--resume").code == 0
    # The plan of the budget is made from the first image, which is extracted once more.
    assert sum(tiny.extracted) == 50 - 3 * 8 + 1
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "m.safetensors.features").exists()
