"""`patchcore calibrate` and `fit --false-alarm-rate`: thresholds, summaries and refused images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.models import file as model_file
from patchcore_plugin.models.recalibration import recalibrate
from tests.commands import SMALL, patchcore, run_command, run_failing, run_json
from tests.conftest import draw, write

pytestmark = pytest.mark.slow

CPU = ("--device", "cpu")


@pytest.fixture
def model(washer_model: Path, tmp_path: Path) -> Path:
    """A copy of the fitted model."""
    return Path(shutil.copy(washer_model, tmp_path / "m.safetensors"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 19 good images that the model was not fitted on."""
    folder = tmp_path_factory.mktemp("others")
    for number in range(19):
        write(folder / f"{number:03}.png", draw(500 + number))
    return folder


def read_calibration(path: Path) -> dict[str, Any]:
    calibration: dict[str, Any] = model_file.read_manifest(path)["calibration"]
    return calibration


# fit


def test_fit_with_a_rate(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    summary = run_json("fit", good, "--out", out, "--false-alarm-rate", 0.3, *SMALL)
    calibration = read_calibration(out)
    assert summary["threshold"] == calibration["threshold"] == calibration["scores"][-3]
    assert summary["map_threshold"] == calibration["map_threshold"] == calibration["peaks"][-3]
    assert summary["false_alarm_rate"] == pytest.approx(3 / 11)
    assert "27.27%" in summary["threshold_source"]


def test_fit_with_a_rate_that_the_images_do_not_support(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    message = run_failing("fit", good, "--out", out, "--false-alarm-rate", 0.05, *SMALL)
    assert "0.05 needs at least 19" in message
    assert "0.091" in message
    message = run_failing("fit", good, "--out", out, "--false-alarm-rate", 5, *SMALL)
    assert "between 0 and 1" in message
    assert message.endswith("got 5")
    assert not out.exists()


# calibrate


def test_new_rate_with_the_scores_of_the_fit(model: Path) -> None:
    before, tensors = read_calibration(model), model_file.load(model)[0]
    run_command("calibrate", model, "--false-alarm-rate", 0.2, *CPU)
    assert read_calibration(model) == {
        **before,
        "threshold": before["scores"][-2],
        "map_threshold": before["peaks"][-2],
        "rate": 0.2,
    }
    after = model_file.load(model)[0]
    assert all(torch.equal(tensor, after[name]) for name, tensor in tensors.items())


def test_other_good_images(model: Path, others: Path, tmp_path: Path) -> None:
    before, out = read_calibration(model), tmp_path / "new" / "other.safetensors"
    summary = run_json("calibrate", model, others, "--out", out, "--false-alarm-rate", 0.1, *CPU)
    assert read_calibration(model) == before
    predictions = pp.Detector.load(model, device="cpu").predict(sorted(others.iterdir()))
    scores = sorted(prediction.score for prediction in predictions)
    after = read_calibration(out)
    assert after["scores"] == pytest.approx(scores, rel=1e-6)
    assert (after["threshold"], after["map_threshold"]) == (after["scores"][-2], after["peaks"][-2])
    assert "10.00%" in summary.pop("threshold_source")
    assert summary == {
        "model": str(out),
        "threshold": after["threshold"],
        "previous_threshold": before["threshold"],
        "map_threshold": after["map_threshold"],
        "false_alarm_rate": 0.1,
        "smallest_false_alarm_rate": 0.05,
        "good_images": 19,
        "good_above_previous_threshold": sum(score > before["threshold"] for score in scores),
        "defective_images": 0,
        "defective_above_threshold": 0,
        "skipped": [],
    }


def test_defective_images_among_the_good_ones_are_counted(
    model: Path, dataset: Path, others: Path, tmp_path: Path
) -> None:
    blots, out = dataset / "test" / "blot", tmp_path / "new.safetensors"
    summary = run_json("calibrate", model, blots, others, "--out", out, "--false-alarm-rate", 0.1, *CPU)
    assert summary["good_images"] == 22
    assert summary["good_above_previous_threshold"] >= 3


def test_defective_images(model: Path, dataset: Path, others: Path) -> None:
    blots = dataset / "test" / "blot"
    summary = run_json("calibrate", model, "--defective", blots, "--criterion", "f1", *CPU)
    first = read_calibration(model)
    assert first["scores"][-1] < first["threshold"] < first["defective"][0]
    assert (summary["defective_images"], summary["defective_above_threshold"]) == (3, 3)
    # Scores of defective images stay valid when other good images replace the first ones.
    run_json("calibrate", model, others, "--criterion", "cost", "--cost", 5, *CPU)
    second = read_calibration(model)
    assert second["defective"] == first["defective"]
    assert (len(second["scores"]), second["criterion"], second["cost"]) == (19, "cost", 5)
    summary = run_json("calibrate", model, "--false-alarm-rate", 0.5, *CPU)
    third = read_calibration(model)
    assert (summary["defective_above_threshold"], third["criterion"], third["cost"]) == (3, "false-alarms", None)


def test_unreadable_images(model: Path, others: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    before = model.read_bytes()
    assert run_failing("calibrate", model, bad, others, *CPU).startswith(f"{bad}: ")
    ended = patchcore("calibrate", model, bad, *CPU, "--on-error", "skip")
    assert ended.code == 1
    assert "none of the good images can be read" in ended.err
    assert model.read_bytes() == before
    ended = patchcore("calibrate", model, bad, others, *CPU, "--on-error", "skip", "--json")
    assert (ended.code, json.loads(ended.out)["good_images"]) == (1, 19)
    assert "1 of 20 images" in ended.err
    assert len(read_calibration(model)["scores"]) == 19


def test_training_images_and_their_copies_are_refused(model: Path, good: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    original = good / "004.png"
    copy = Path(shutil.copy(original, tmp_path / "copy.png"))
    for option in ([], ["--defective"]):
        assert run_failing("calibrate", model, *option, original, *CPU).startswith(f"{original}: ")
        message = run_failing("calibrate", model, *option, copy, *CPU)
        assert message.startswith(f"{copy}: ")
        assert str(original) in message
    assert model.read_bytes() == before


def test_impossible_thresholds(model: Path, others: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    command = ["calibrate", model, *CPU]
    for images in ([], [others]):  # refused before any image is scored
        ended = patchcore(*command, *images, "--false-alarm-rate", 0.01)
        assert ended.err.startswith("patchcore: a false-alarm rate of 0.01 needs at least 99 ")
    for criterion in ("f1", "cost"):
        message = run_failing(*command, "--criterion", criterion)
        assert criterion in message
        assert "--defective" in message
    assert "pass only one" in run_failing(*command, "--criterion", "f1", "--false-alarm-rate", 0.2)
    image = others / "003.png"
    assert run_failing(*command, others, "--defective", image).startswith(f"{image}: ")
    assert patchcore(*command, "--cost", 2).code == 2
    assert model.read_bytes() == before
    missing = tmp_path / "missing" / "m.safetensors"
    assert run_failing("calibrate", missing, "--false-alarm-rate", 0.2).startswith(f"{missing}: ")
    assert not missing.parent.exists()


def test_model_of_one_image_needs_other_images(good: Path, others: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    run_command("fit", good / "000.png", "--out", out, *SMALL)
    assert "good images" in run_failing("calibrate", out, *CPU)
    assert run_json("calibrate", out, others, *CPU)["false_alarm_rate"] == 0.05


def test_arrays_and_progress(washer_model: Path) -> None:
    model = pp.Detector.load(washer_model, device="cpu")
    before, steps = model.calibration, []
    images = [np.ascontiguousarray(draw(700 + number)[..., ::-1]) for number in range(4)]
    calibration, skipped = recalibrate(model, images[:3], images[3:], progress=lambda *step: steps.append(step))
    assert model.calibration is before
    assert (len(calibration.scores), len(calibration.defective), skipped) == (3, 1, [])
    assert steps == [("scoring images", number, 4) for number in range(1, 5)]
