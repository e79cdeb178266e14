"""`patchcore update`: the summary, and the files that it writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands import run_command, run_failing, run_json
from tests.models import tiny


def test_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = tiny.write(tmp_path / "images", 9)
    monkeypatch.setattr("patchcore_plugin.cli.options.Host", lambda **_: tiny.host())
    model = tmp_path / "m.safetensors"
    tiny.detector().fit(paths[:6]).save(model)
    before = model.read_bytes()
    summary = run_json("update", model, tmp_path / "images", "--out", tmp_path / "n.safetensors")
    assert model.read_bytes() == before
    assert (summary["images_added"], summary["images_already_in_model"]) == (3, 6)
    assert (summary["before"]["bank_rows"], summary["after"]["bank_rows"]) == (39, 58)
    assert (summary["before"]["patches_seen"], summary["after"]["patches_seen"]) == (384, 576)
    assert summary["before"]["radius_is_exact"]
    assert not summary["after"]["radius_is_exact"]
    output = run_command("update", model, tmp_path / "images").out
    assert re.search(r"39 of 384 patches.*\n.*58 of 576 patches", output)
    above = sum(image["score"] > summary["before"]["threshold"] for image in summary["highest_scores"])
    assert (len(summary["highest_scores"]), summary["above_previous_threshold"]) == (3, above)
    assert f"new        {above} of 3 images" in output
    assert model.read_bytes() == (tmp_path / "n.safetensors").read_bytes()
    assert "all 9 images" in run_failing("update", model, tmp_path / "images")
