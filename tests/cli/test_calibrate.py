"""`patchcore calibrate`, and `fit --false-alarm-rate`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.models import file as model_file
from tests.commands import SMALL, done, failure, loaded, patchcore
from tests.conftest import draw, write

CPU = ("--device", "cpu")


@pytest.fixture
def model(washer_model: Path, tmp_path: Path) -> Path:
    """A copy that tests may change."""
    return Path(shutil.copy(washer_model, tmp_path / "m.safetensors"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images that the model was not fitted on."""
    folder = tmp_path_factory.mktemp("others")
    for number in range(19):
        write(folder / f"{number:03}.png", draw(500 + number))
    return folder


def calibration(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = model_file.read_manifest(path)["calibration"]
    return content


def test_fit_for_a_rate(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    summary = loaded("fit", good, "--out", out, "--false-alarm-rate", 0.3, *SMALL)
    content = calibration(out)
    assert summary["threshold"] == content["threshold"] == content["scores"][-3]
    assert summary["map_threshold"] == content["map_threshold"] == content["peaks"][-3]
    assert summary["false_alarm_rate"] == pytest.approx(3 / 11)


def test_fit_for_a_rate_that_cannot_be_guaranteed(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    assert "at least 19 " in failure("fit", good, "--out", out, "--false-alarm-rate", 0.05, *SMALL)
    assert "between 0 and 1" in failure("fit", good, "--out", out, "--false-alarm-rate", 5, *SMALL)
    assert not out.exists()


def test_another_rate_for_the_scores_of_the_fit(model: Path) -> None:
    before, tensors = calibration(model), model_file.load(model)[0]
    ended = done("calibrate", model, "--false-alarm-rate", 0.2, *CPU)
    after = calibration(model)
    assert after == {**before, "threshold": before["scores"][-2], "map_threshold": before["peaks"][-2], "rate": 0.2}
    for value in (after["threshold"], before["threshold"], after["map_threshold"]):
        assert f"{value:.4f}" in ended.out
    again = model_file.load(model)[0]
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors.items())


def test_other_good_images_and_another_file(model: Path, others: Path, tmp_path: Path) -> None:
    before, out = calibration(model), tmp_path / "new" / "other.safetensors"
    summary = loaded("calibrate", model, others, "--out", out, "--false-alarm-rate", 0.1, *CPU)
    assert calibration(model) == before
    detector = pp.Detector.load(model, device="cpu")
    scores = sorted(prediction.score for prediction in detector.predict(sorted(others.iterdir())))
    after = calibration(out)
    assert after["scores"] == pytest.approx(scores, rel=1e-6)
    assert (after["threshold"], after["map_threshold"]) == (after["scores"][-2], after["peaks"][-2])
    assert summary.pop("threshold_source") == pp.Calibration.from_dict(after).describe()
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


def test_defective_images_given_as_good_are_reported(model: Path, dataset: Path, others: Path, tmp_path: Path) -> None:
    images = [dataset / "test" / "blot", others, "--out", tmp_path / "m.safetensors"]
    text = done("calibrate", model, *images, "--false-alarm-rate", 0.1, *CPU).out
    (above,) = re.findall(r"(\d+) of 22 images", text)
    assert int(above) >= 3


def test_defective_images_choose_the_threshold(model: Path, dataset: Path, others: Path) -> None:
    blots = dataset / "test" / "blot"
    ended = done("calibrate", model, "--defective", blots, "--criterion", "f1", *CPU)
    content = calibration(model)
    assert content["scores"][-1] < content["threshold"] < content["defective"][0]
    assert len(content["defective"]) == 3
    assert "best F1 score, 0 of 10 good images above it" in ended.out
    assert "3 of 3 images" in ended.out
    # The model is the same, so that the scores of defective images stay when the good ones are replaced.
    loaded("calibrate", model, others, "--criterion", "cost", "--cost", 5, *CPU)
    after = calibration(model)
    assert after["defective"] == content["defective"]
    assert (len(after["scores"]), after["criterion"], after["cost"]) == (19, "cost", 5)
    assert loaded("calibrate", model, "--false-alarm-rate", 0.5, *CPU)["defective_above_threshold"] == 3
    assert (calibration(model)["criterion"], calibration(model)["cost"]) == ("false-alarms", None)


def test_unreadable_images_stop_or_are_skipped(model: Path, others: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    before = model.read_bytes()
    assert failure("calibrate", model, bad, others, *CPU).startswith(f"{bad}: ")
    ended = patchcore("calibrate", model, bad, *CPU, "--on-error", "skip")
    assert ended.code == 1
    assert "none of the good images can be read" in ended.err
    assert model.read_bytes() == before
    ended = patchcore("calibrate", model, bad, others, *CPU, "--on-error", "skip", "--json")
    assert (ended.code, json.loads(ended.out)["good_images"]) == (1, 19)
    assert "1 of 20 images" in ended.err.splitlines()[-1]


def test_training_images_are_refused(model: Path, good: Path) -> None:
    before = model.read_bytes()
    for option in ([], ["--defective"]):
        assert failure("calibrate", model, *option, good / "004.png", *CPU).startswith(f"{good / '004.png'}: ")
    assert model.read_bytes() == before


def test_impossible_thresholds_are_refused(model: Path, others: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    command = ["calibrate", model, *CPU]
    assert "at least 99 " in failure(*command, "--false-alarm-rate", 0.01)
    assert "at least 99 " in failure(*command, others, "--false-alarm-rate", 0.01)
    for criterion in ("f1", "cost"):
        assert "--defective" in failure(*command, "--criterion", criterion)
    assert "criterion f1" in failure(*command, "--criterion", "f1", "--false-alarm-rate", 0.2)
    assert failure(*command, others, "--defective", others / "003.png").startswith(f"{others / '003.png'}: ")
    assert patchcore(*command, "--cost", 2).code == 2
    assert model.read_bytes() == before
    nowhere = tmp_path / "nowhere" / "m.safetensors"
    assert failure("calibrate", nowhere, "--false-alarm-rate", 0.2).startswith(f"{nowhere}: no such model file")
    assert not nowhere.parent.exists()


def test_a_model_of_a_single_image_needs_others(good: Path, others: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    done("fit", good / "000.png", "--out", out, *SMALL)
    assert "no scores of good images" in failure("calibrate", out, *CPU)
    assert loaded("calibrate", out, others, *CPU)["false_alarm_rate"] == 0.05
