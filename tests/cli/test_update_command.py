"""`patchcore update`: what it prints, and which files it writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands import done, failure, loaded
from tests.models import tiny


def test_it_says_what_it_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = tiny.write(tmp_path / "images", 9)
    monkeypatch.setattr("patchcore_plugin.cli.setup.Host", lambda **_: tiny.host())
    model = tmp_path / "m.safetensors"
    tiny.detector().fit(paths[:6]).save(model)
    before = model.read_bytes()
    found = loaded("update", model, tmp_path / "images", "--out", tmp_path / "n.safetensors")
    assert model.read_bytes() == before
    assert (found["images_added"], found["images_known"]) == (3, 6)
    assert (found["before"]["bank_rows"], found["after"]["bank_rows"]) == (39, 58)
    assert (found["before"]["patches_seen"], found["after"]["patches_seen"]) == (384, 576)
    assert found["before"]["radius_is_exact"]
    assert not found["after"]["radius_is_exact"]
    said = done("update", model, tmp_path / "images").out
    assert "images     3 added, in " in said
    assert "; 6 are in the model already" in said
    assert re.search(r"before     39 of 384 patches, covering radius [\d.]+\n", said)
    assert re.search(r"after      58 of 576 patches, covering radius at most [\d.]+\n", said)
    assert re.search(r"threshold  [\d.]+ \(at most 10.00% false alarms; .*\), before [\d.]+\n", said)
    above = sum(each["score"] > found["before"]["threshold"] for each in found["highest"])
    assert (len(found["highest"]), found["above_before"]) == (3, above)
    assert f"new        {above} of 3 images were above the former threshold\nhighest    {tmp_path}" in said
    assert model.read_bytes() == (tmp_path / "n.safetensors").read_bytes()
    assert failure("update", model, tmp_path / "images").startswith("all 9 images are in the model already")
