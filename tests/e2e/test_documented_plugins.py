"""The plugins in the docstrings of the hooks work and conform to their contracts."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.plugins import hookspecs
from patchcore_plugin.plugins.specs import ROLES
from patchcore_plugin.plugins.testing import checks
from tests.plugins.fake_plugins import found


def documented_plugin(hook: str, folder: Path) -> Any:
    """Import the module in the docstring of a hook."""
    doc = inspect.getdoc(getattr(hookspecs, hook)) or ""
    _, marker, code = doc.partition("A complete plugin::\n")
    assert marker, f"{hook} shows no plugin"
    path = folder / f"documented_{hook}.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # needed to read the docstrings of its options
    spec.loader.exec_module(module)
    return module


def host_of(module: Any) -> pp.Host:
    host = pp.Host(entry_points=False, extra={"documented": module})
    assert found(host, "documented").reason == ""
    return host


@pytest.mark.parametrize("role", ROLES)
def test_documented_plugin_conforms(role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    all_checks = checks(documented_plugin(f"patchcore_{role}s", tmp_path))
    assert all_checks
    for check in all_checks:
        check()


def test_every_hook_has_a_documented_plugin() -> None:
    assert [name for name in dir(hookspecs) if name.startswith("patchcore_")] == sorted(
        f"patchcore_{role}s" for role in ROLES
    )


def test_documented_backbone(tmp_path: Path) -> None:
    host = host_of(documented_plugin("patchcore_backbones", tmp_path))
    backbone = host.create("backbone", "colours", stride=4)
    images = torch.rand(2, 3, 16, 24)
    (features,) = backbone.to("cpu")(images)
    assert features.shape == (2, 3, 4, 6)
    assert torch.allclose(features[0, :, 0, 0], images[0, :, :4, :4].mean(dim=(1, 2)))
    assert len(backbone.weight_hash()) == 64
    assert (backbone.mean, backbone.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_documented_aggregator(tmp_path: Path) -> None:
    host = host_of(documented_plugin("patchcore_aggregators", tmp_path))
    finest = torch.rand(2, 5, 4, 6)
    patches = host.create("aggregator", "finest")([finest, torch.rand(2, 7, 2, 3)])
    assert patches.grid.shape == (2, 4, 6, 5)
    assert torch.equal(patches.grid[1, 2, 3], finest[1, :, 2, 3])


def test_documented_sampler(tmp_path: Path) -> None:
    host = host_of(documented_plugin("patchcore_samplers", tmp_path))
    assert host.create("sampler", "every", step=4)(torch.rand(10, 3)).tolist() == [0, 4, 8]


def test_documented_scorer(tmp_path: Path) -> None:
    host = host_of(documented_plugin("patchcore_scorers", tmp_path))
    bank = pp.MemoryBank(vectors=torch.tensor([[0.0, 0.0], [2.0, 0.0]]), origin=torch.zeros(2, 3, dtype=torch.int64))
    patches = pp.Patches(grid=torch.tensor([1.0, 3.0]).expand(1, 2, 3, 2))
    scorer, restored = host.create("scorer", "mean"), host.create("scorer", "mean")
    scorer.fit(bank)
    restored.restore(bank, scorer.state())
    for each in (scorer, restored):
        scores = each(patches)
        assert scores.image.tolist() == [3.0]
        assert scores.map is not None
        assert scores.map.tolist() == [[[3.0] * 3] * 2]
