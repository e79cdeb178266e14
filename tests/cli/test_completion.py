"""Shell completion, and the cost of plugins that are slow or broken."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import patchcore_plugin as pp
from tests.plugins.fake_plugins import Install

pytestmark = pytest.mark.e2e

ROWDY = """
    import os, sys
    print("hello")
    print("hello", file=sys.stderr)
    sys.exit(3)
"""
"""A plugin that prints and exits when it is imported."""


def run_shell(folder: Path, words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `patchcore` in a new process that finds the modules of a folder and cannot import torch."""
    (folder / "torch.py").write_text("raise ImportError('torch must not be imported')", encoding="utf-8")
    command = [sys.executable, "-c", "from patchcore_plugin.cli import main; main()", *shlex.split(words)]
    variables = {**os.environ, "PYTHONPATH": str(folder), **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables, check=False)


def complete(folder: Path, line: str) -> list[str]:
    """Return what bash offers at the end of a line."""
    words = shlex.split(line)
    place = len(words) - (not line.endswith(" "))
    environment = {"_PATCHCORE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(place)}
    ended = run_shell(folder, "", PATCHCORE_STRICT_PLUGINS="1", **environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


@pytest.mark.parametrize(
    ("line", "role", "start"),
    [
        ("patchcore fit images --backbone ", "backbone", ""),
        ("patchcore fit images --aggregator a", "aggregator", "a"),
        ("patchcore evaluate dataset --sampler r", "sampler", "r"),
        ("patchcore evaluate dataset --scorer ", "scorer", ""),
        ("patchcore plugins show greedy", "sampler", "greedy"),
    ],
)
def test_component_names(distribution: Install, line: str, role: str, start: str) -> None:
    folder = distribution("acme", ROWDY)
    expected = [name for name in pp.Host().names(role) if name.startswith(start)]
    assert expected
    assert complete(folder, line) == expected


def test_blocked_components_are_not_offered(distribution: Install) -> None:
    folder = distribution("acme", ROWDY)
    assert complete(folder, "patchcore --block simple-samplers fit --sampler r") == []
    lite = "efficientnet-lite0"
    assert lite in complete(folder, f"patchcore fit --backbone {lite[:4]}")
    assert lite not in complete(folder, f"patchcore --no-plugins fit --backbone {lite[:4]}")


def test_recipes_and_roles(distribution: Install) -> None:
    folder = distribution("acme", ROWDY)
    shipped = [name for name in pp.Recipe.names() if name.startswith("patchcore-")]
    assert len(shipped) > 3
    assert complete(folder, "patchcore fit --recipe patchcore-") == shipped
    assert complete(folder, "patchcore evaluate . --recipe patchcore-p") == ["patchcore-paper"]
    assert complete(folder, "patchcore recipes show patchcore-p") == ["patchcore-paper"]
    assert complete(folder, "patchcore plugins list --role s") == ["sampler", "scorer"]


def test_names_to_block_are_offered_without_importing_the_plugin(distribution: Install) -> None:
    folder = distribution("acme-search", "import time\ntime.sleep(600)", entry_point="acmes")
    assert complete(folder, "patchcore --block ac") == ["acme-search", "acmes"]
    assert "greedy-coreset" in complete(folder, "patchcore --block gr")


def test_blocked_plugin_is_not_imported(distribution: Install) -> None:
    folder = distribution("acme", "import time\ntime.sleep(600)")
    ended = run_shell(folder, "--block acme plugins list")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "acme" in ended.stdout
    assert run_shell(folder, "plugins list", PATCHCORE_BLOCK_PLUGINS="acme").returncode == 0
