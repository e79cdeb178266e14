"""Which factories may run: those that the user allows, written in one way, and never by a model file's choice."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import patchcore_module as plugin
import pytest

import patchcore_plugin as pp

from .networks import FACTORY, OPTIONS, message


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        ("os:system", {"command": "touch TRACE"}),
        ("subprocess:run", {"args": "touch TRACE", "shell": True}),
        ("own_networks:system", {"command": "touch TRACE"}),
        ("own_networks:Ne", {}),
        ("trap:Net", {}),
    ],
)
@pytest.mark.parametrize("allowed", [None, FACTORY, "own_networks", "os,subprocess,trap", "*"])
def test_factory_that_is_not_allowed_is_not_imported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    networks: Any,
    factory: str,
    arguments: dict[str, Any],
    allowed: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    networks.system = os.system
    (tmp_path / "trap.py").write_text("open('TRACE', 'w').close()")
    monkeypatch.delenv(plugin.ALLOWED)
    if allowed is not None:
        monkeypatch.setenv(plugin.ALLOWED, allowed)
    assert f"PATCHCORE_MODULE_FACTORIES={factory}" in message(pp.OptionError, factory=factory, arguments=arguments)
    assert not (tmp_path / "TRACE").exists()


def test_model_file_cannot_select_code_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model file is untrusted, and nothing is allowed in its environment."""
    good = [np.full((32, 32, 3), value, dtype=np.uint8) for value in range(90, 96)]
    detector = pp.Detector.from_recipe(
        "patchcore", backbone={"name": "module", **OPTIONS}, preprocessing={"size": (32, 32)}
    )
    detector.fit(good).save(tmp_path / "part.safetensors")
    monkeypatch.delenv(plugin.ALLOWED)
    del sys.modules["own_networks"]
    with pytest.raises(pp.OptionError, match="factory own_networks:Net is not allowed"):
        pp.Detector.load(tmp_path / "part.safetensors")
    assert "own_networks" not in sys.modules
    monkeypatch.setenv(plugin.ALLOWED, FACTORY)
    assert pp.Detector.load(tmp_path / "part.safetensors").threshold == detector.threshold


@pytest.mark.parametrize(
    "factory", ["own_networks", "own_networks.Net", "own_networks:Net.__init__", "a b:c", ":f", ""]
)
def test_factory_has_one_notation(factory: str) -> None:
    with pytest.raises(
        pp.OptionError, match=re.escape(f"package.module:function, such as my_networks:SmallNet, got {factory!r}")
    ):
        pp.Host().configure("backbone", "module", {**OPTIONS, "factory": factory})


def test_invalid_factories_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(plugin.ALLOWED, "gone.away:Net,own_networks:net,own_networks:broken,own_networks:number,bad:Net")
    (tmp_path / "bad.py").write_text("import gone_too")
    assert "PYTHONPATH" in message(pp.OptionError, factory="gone.away:Net")
    assert "No module named 'gone_too'" in message(pp.OptionError, factory="bad:Net")
    assert "did you mean 'Net'?" in message(pp.OptionError, factory="own_networks:net")
    assert "{'width': 3}: KeyError" in message(pp.OptionError, factory="own_networks:broken", arguments={"width": 3})
    assert "got int" in message(pp.OptionError, factory="own_networks:number")
