"""`patchcore calibrate`, `fit --false-alarm-rate`, and what both say when something is wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchcore_plugin as pp
from benchmarks import false_alarms
from benchmarks.false_alarms import CachingBackbone
from patchcore_plugin.models import file as model_file
from patchcore_plugin.models.recalibration import recalibrate
from tests.commands import SMALL, Ended, done, failure, loaded, patchcore
from tests.conftest import draw, write


@pytest.fixture(scope="module")
def fitted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("fitted") / "washer.safetensors"
    done("fit", dataset / "train" / "good", "--out", model, *SMALL)
    return model


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copy(fitted, tmp_path / "m.safetensors"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images that the model was not fitted on."""
    folder = tmp_path_factory.mktemp("others")
    for number in range(19):
        write(folder / f"{number:03}.png", draw(500 + number))
    return folder


def calibration(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = model_file.read_manifest(path)["calibration"]
    return found


# fit


def test_fit_for_a_rate(dataset: Path, tmp_path: Path) -> None:
    good, out = dataset / "train" / "good", tmp_path / "m.safetensors"
    summary = loaded("fit", good, "--out", out, "--false-alarm-rate", 0.3, *SMALL)
    found = calibration(out)
    assert summary["threshold"] == found["threshold"] == found["scores"][-3]
    assert summary["map_threshold"] == found["map_threshold"] == found["peaks"][-3]
    assert summary["false_alarm_rate"] == pytest.approx(3 / 11)
    assert summary["threshold_source"].startswith("at most 27.27% false alarms; scores of 10 good images, ")


def test_fit_for_a_rate_that_so_few_images_cannot_promise(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    assert failure("fit", dataset / "train" / "good", "--out", out, "--false-alarm-rate", 0.05, *SMALL) == (
        "a false-alarm rate of 0.05 needs at least 19 good images that the bank does not know, and there are 10, "
        "which can promise 0.091 at best; give more good images, or ask for a higher rate"
    )
    assert failure("fit", dataset / "train" / "good", "--out", out, "--false-alarm-rate", 5, *SMALL) == (
        "a false-alarm rate lies between 0 and 1, such as 0.01 for 1 %; got 5"
    )
    assert not out.exists()


# calibrate


def test_another_rate_by_the_images_of_the_fit(model: Path) -> None:
    before, tensors = calibration(model), model_file.load(model)[0]
    ended = done("calibrate", model, "--false-alarm-rate", 0.2, "--device", "cpu")
    after = calibration(model)
    changed = {"threshold": before["scores"][-2], "map_threshold": before["peaks"][-2], "rate": 0.2}
    assert after == {**before, **changed}
    assert ended.out == (
        f"model      {model}\n"
        f"threshold  {after['threshold']:.4f} (at most 18.18% false alarms; scores of 10 good images, each judged by a "
        f"bank of the others (5 folds)), before {before['threshold']:.4f}\n"
        f"map        regions are above {after['map_threshold']:.4f}\n"
    )
    again = model_file.load(model)[0]
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors.items())


def test_by_other_good_images(model: Path, others: Path, tmp_path: Path) -> None:
    before, out = calibration(model), tmp_path / "new" / "other.safetensors"
    summary = loaded("calibrate", model, others, "--out", out, "--false-alarm-rate", 0.1, "--device", "cpu")
    assert calibration(model) == before
    scores = sorted(found.score for found in pp.Detector.load(model, device="cpu").predict(sorted(others.iterdir())))
    after = calibration(out)
    assert after["scores"] == pytest.approx(scores, rel=1e-6)
    assert (after["threshold"], after["map_threshold"]) == (after["scores"][-2], after["peaks"][-2])
    assert summary == {
        "model": str(out),
        "threshold": after["threshold"],
        "threshold_before": before["threshold"],
        "map_threshold": after["map_threshold"],
        "false_alarm_rate": 0.1,
        "smallest_false_alarm_rate": 0.05,
        "good_images": 19,
        "good_above_before": sum(score > before["threshold"] for score in scores),
        "defective_images": 0,
        "defective_found": 0,
        "threshold_source": "at most 10.00% false alarms; scores of 19 good images that the model was not fitted on",
        "skipped": [],
    }


def test_defective_images_given_as_good_are_noticed(model: Path, dataset: Path, others: Path, tmp_path: Path) -> None:
    wrong = [dataset / "test" / "blot", others, "--out", tmp_path / "m.safetensors"]
    said = done("calibrate", model, *wrong, "--false-alarm-rate", 0.1, "--device", "cpu").out
    (above,) = re.findall(r"^good       (\d+) of 22 images are above the former threshold$", said, re.M)
    assert int(above) >= 3


def test_by_defective_images_too(model: Path, dataset: Path, others: Path) -> None:
    blots = dataset / "test" / "blot"
    ended = done("calibrate", model, "--defective", blots, "--criterion", "f1", "--device", "cpu")
    known = calibration(model)
    assert known["scores"][-1] < known["threshold"] < known["defective"][0]
    assert len(known["defective"]) == 3
    assert " (best F1 score, 0 of 10 good images above it; scores of 10 good images, " in ended.out
    assert "defective  3 of 3 images are above the threshold\n" in ended.out
    # The model is the same, so what defective images got holds when the good ones are replaced.
    loaded("calibrate", model, others, "--criterion", "cost", "--cost", 5, "--device", "cpu")
    after = calibration(model)
    assert after["defective"] == known["defective"]
    assert (len(after["scores"]), after["criterion"], after["cost"]) == (19, "cost", 5)
    rate = loaded("calibrate", model, "--false-alarm-rate", 0.5, "--device", "cpu")
    assert (rate["defective_found"], calibration(model)["criterion"], calibration(model)["cost"]) == (
        3,
        "false-alarms",
        None,
    )


def test_unreadable_images_stop_it_or_are_left_out(model: Path, others: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    before = model.read_bytes()
    assert failure("calibrate", model, bad, others, "--device", "cpu").startswith(f"{bad}: not a readable image (")
    ended: Ended = patchcore("calibrate", model, bad, "--device", "cpu", "--on-error", "skip")
    assert ended.code == 1
    assert ended.err.endswith("patchcore: none of the good images can be read; nothing has changed\n")
    assert model.read_bytes() == before
    ended = patchcore("calibrate", model, bad, others, "--device", "cpu", "--on-error", "skip", "--json")
    assert (ended.code, json.loads(ended.out)["good_images"]) == (1, 19)
    assert ended.err.endswith("patchcore: 1 of 20 images were skipped; all others are done\n")
    assert calibration(model)["source"] == "scores of 19 good images that the model was not fitted on"


def test_images_that_it_was_fitted_on_are_refused_copies_too(model: Path, dataset: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    original = dataset / "train" / "good" / "004.png"
    copy = Path(shutil.copy(original, tmp_path / "copy.png"))
    end = "and finds it too normal; calibrate with others, or without images, by those that were judged in the fit"
    for option in ([], ["--defective"]):
        assert failure("calibrate", model, *option, original, "--device", "cpu") == (
            f"{original}: the model was fitted on this image {end}"
        )
        assert failure("calibrate", model, *option, copy, "--device", "cpu") == (
            f"{copy}: the model was fitted on this image (as {original}) {end}"
        )
    assert model.read_bytes() == before


def test_what_cannot_be_chosen(model: Path, others: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    command = ["calibrate", model, "--device", "cpu"]
    assert failure(*command, "--false-alarm-rate", 0.01) == (
        "a false-alarm rate of 0.01 needs at least 99 good images that the bank does not know, and there are 10, "
        "which can promise 0.091 at best; give more good images, or ask for a higher rate"
    )
    # None of them is judged before it is refused.
    ended = patchcore(*command, others, "--false-alarm-rate", 0.01)
    assert ended.err.startswith("patchcore: a false-alarm rate of 0.01 needs at least 99 good images ")
    for criterion in ("f1", "cost"):
        assert failure(*command, "--criterion", criterion) == (
            f"a threshold by {criterion} needs images of defective parts; give some (--defective)"
        )
    assert failure(*command, "--criterion", "f1", "--false-alarm-rate", 0.2) == (
        "a false-alarm rate cannot be chosen along with criterion f1; leave one out"
    )
    image = others / "003.png"
    assert failure(*command, others, "--defective", image) == (
        f"{image}: is given as good and as defective; leave one out"
    )
    assert patchcore(*command, "--cost", 2).code == 2
    assert model.read_bytes() == before
    nowhere = tmp_path / "nowhere" / "m.safetensors"
    assert failure("calibrate", nowhere, "--false-alarm-rate", 0.2) == (
        f"{nowhere}: no such model file; make one with: patchcore fit IMAGES --out {nowhere}"
    )
    assert not nowhere.parent.exists()


def test_a_model_of_a_single_image_needs_others(dataset: Path, others: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    done("fit", dataset / "train" / "good" / "000.png", "--out", out, *SMALL)
    assert failure("calibrate", out, "--device", "cpu") == (
        "the model has no scores of good images; give good images that it was not fitted on"
    )
    assert loaded("calibrate", out, others, "--device", "cpu")["false_alarm_rate"] == 0.05


def test_the_benchmark_judges_images_that_were_not_fitted_on(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []

    class Counting(CachingBackbone):
        def _maps(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
            computed.append(len(self._cache))
            return super()._maps(tensor)

    monkeypatch.setattr(false_alarms, "CachingBackbone", Counting)
    found = false_alarms.run_splits(dataset, 2)
    # Ten of thirteen good images each time; the other three and three defective ones are judged.
    assert [(len(each.calibration.scores), len(each.good)) for each in found] == [(10, 3), (10, 3)]
    assert len(computed) == 2 * (10 + 3 + 3)
    assert max(computed) <= 13 + 3
    assert found[0].calibration.scores != found[1].calibration.scores
    figures = false_alarms.figures(found, 0.2)
    assert (figures["guaranteed"], figures["possible"]) == (0.2, 0.1818)
    thresholds = [each.calibration.scores[-2] for each in found]
    alarms = [[image.score > limit for image in each.good] for each, limit in zip(found, thresholds, strict=True)]
    assert figures["observed"] == pytest.approx(np.mean(alarms), abs=1e-4)
    hits = [
        [image.score > limit for image in each.defective["blot"]] for each, limit in zip(found, thresholds, strict=True)
    ]
    assert figures["detected"] == {"blot": pytest.approx(np.mean(hits), abs=1e-4)}


def test_arrays_and_progress(fitted: Path) -> None:
    model = pp.Detector.load(fitted, device="cpu")
    before, seen = model.calibration, []
    images = [np.ascontiguousarray(draw(700 + number)[..., ::-1]) for number in range(4)]
    found, skipped = recalibrate(model, images[:3], images[3:], progress=lambda *step: seen.append(step))
    assert model.calibration is before
    assert (len(found.scores), len(found.defective), skipped) == (3, 1, [])
    assert seen == [("judging images", number, 4) for number in range(1, 5)]
