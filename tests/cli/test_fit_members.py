"""Recipes of several members on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import patchcore_plugin as pp
from tests.commands import run_command, run_failing, run_json

TOML = """
summary = "two networks"
[preprocessing]
size = [64, 64]
[[members]]
recipe = "patchcore"
name = "lite0"
backbone = "efficientnet-lite0"
[[members]]
recipe = "patchcore-1"
name = "lite1"
backbone = { name = "efficientnet-lite1", layers = ["stage3"] }
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


@pytest.mark.slow
def test_several_members_are_fitted_predict_and_are_evaluated(dataset: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    options = ["--recipe", recipe, "--set", "0.sampler.ratio=0.05", "--device", "cpu"]
    ended = run_command("fit", dataset, "--out", out, *options)
    for fact in ("lite0", "lite1", "32 of 640 patches", "7 of 640 patches", "--set 0.sampler.radius="):
        assert fact in ended.out
    assert "member 0 (lite0): 10 images" in ended.err

    records = run_json("predict", out, dataset / "test", "--out", tmp_path / "results")["results"]
    model = pp.load_model(out, device="cpu")
    paths = sorted((dataset / "test").rglob("*.png"))
    expected = {str(prediction.path): prediction.score for prediction in model.predict(paths)}
    assert {record["path"]: record["score"] for record in records} == expected
    assert all((tmp_path / "results" / record["map"]).is_file() for record in records)
    assert {record["threshold"] for record in records} == {model.threshold}

    results = run_json("evaluate", dataset, "--out", tmp_path / "report", *options)
    assert results["categories"]["washer"]["image_auroc"] == 1
    assert results["categories"]["washer"]["bank_rows"] == 39
    assert [member["name"] for member in results["recipe"]["members"]] == ["lite0", "lite1"]
    assert "efficientnet-lite1" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_the_summary_of_a_fit_lists_members(dataset: Path, recipe: Path, tmp_path: Path) -> None:
    summary = run_json("fit", dataset, "--out", tmp_path / "m", "--recipe", recipe, "--device", "cpu")
    assert [(member["name"], member["bank_rows"], member["patches_seen"]) for member in summary["members"]] == [
        ("lite0", 64, 640),
        ("lite1", 7, 640),
    ]
    assert all(member["covering_radius"] > 0 for member in summary["members"])
    assert "bank_rows" not in summary


def test_a_recipe_is_shown_as_it_is_read(recipe: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.toml"
    again.write_text(run_command("recipes", "show", recipe).out, encoding="utf-8")
    first, second = (pp.Recipe.load(str(path)).resolve(pp.Host(), 0).to_dict() for path in (recipe, again))
    assert {**first, "name": "", "summary": ""} == {**second, "name": "", "summary": ""}


def test_one_backbone_is_exported_at_a_time(tmp_path: Path) -> None:
    message = run_failing("export-backbone", "--out", tmp_path / "x.onnx", "--recipe", "patchcore-ensemble")
    assert "--backbone NAME" in message


def test_an_unknown_member_is_refused(dataset: Path, tmp_path: Path) -> None:
    command = ["fit", dataset, "--out", tmp_path / "m", "--recipe", "patchcore-ensemble", "--set", "3.sampler.ratio=1"]
    assert "'3.sampler'" in run_failing(*command)
