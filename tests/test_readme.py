"""What the README shows works."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import patchcore_plugin as pp

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_python_example(tmp_path: Path) -> None:
    (script,) = (block for block in PYTHON if "Detector" in block)
    (tmp_path / "example.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_plugin_example(tmp_path: Path) -> None:
    (source,) = (block for block in PYTHON if "hookimpl" in block)
    assert len([line for line in source.splitlines() if line.strip()]) <= 20
    path = tmp_path / "my_module.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("my_module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    host = pp.Host(extra={"every": module})
    assert host.create("sampler", "every", step=3)(torch.ones(8, 2)).tolist() == [0, 3, 6]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_links_within_the_project_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
