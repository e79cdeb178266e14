"""A new threshold for a fitted model, from images that it was not fitted on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import patchcore_plugin as pp
from patchcore_plugin import recalibrate
from tests.models import tiny
from tests.models.tiny import draw, map_of, scores

OTHERS = [draw(500 + seed) for seed in range(19)]
DEFECTIVE = [draw(600 + seed, defect=True) for seed in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def detector(folder: Path) -> pp.Detector:
    return tiny.detector().fit(tiny.write(folder, 10))


def test_another_rate_for_the_scores_of_the_fit(detector: pp.Detector) -> None:
    before = detector.calibration
    calibration, skipped = recalibrate(detector, false_alarm_rate=0.2)
    assert calibration == before.at_rate(0.2)
    assert calibration.threshold == before.scores[-2]
    assert skipped == []
    assert detector.calibration is before


def test_other_good_images_replace_the_scores(detector: pp.Detector) -> None:
    calibration, _ = recalibrate(detector, OTHERS, false_alarm_rate=0.1)
    assert calibration.scores == pytest.approx(sorted(scores(detector, OTHERS)), rel=1e-6)
    peaks = sorted(float(map_of(prediction).max()) for prediction in detector.predict(OTHERS))
    assert calibration.peaks == pytest.approx(peaks, rel=1e-6)
    assert (calibration.threshold, calibration.map_threshold) == (calibration.scores[-2], calibration.peaks[-2])
    assert "19 good images" in calibration.source


def test_defective_images_choose_a_threshold_by_f1_or_cost(detector: pp.Detector) -> None:
    calibration, _ = recalibrate(detector, defective=DEFECTIVE, criterion="f1")
    assert calibration.threshold is not None
    assert calibration.scores[-1] < calibration.threshold < calibration.defective[0]
    assert calibration.scores == detector.calibration.scores
    assert len(calibration.defective) == 3
    both, _ = recalibrate(detector, OTHERS, DEFECTIVE, criterion="cost", cost=5)
    assert (len(both.scores), len(both.defective), both.criterion, both.cost) == (19, 3, "cost", 5)


def test_scores_of_defective_images_are_kept_with_other_good_images(folder: Path, detector: pp.Detector) -> None:
    detector.save(folder / "m.safetensors")
    model = pp.load_model(folder / "m.safetensors", device="cpu", host=tiny.host())
    model.calibration, _ = recalibrate(model, defective=DEFECTIVE, criterion="f1")
    calibration, _ = recalibrate(model, OTHERS)
    assert calibration.defective == model.calibration.defective
    assert (calibration.criterion, len(calibration.scores)) == ("false-alarms", 19)


def test_unreadable_images_stop_or_are_skipped(detector: pp.Detector, tmp_path: Path) -> None:
    bad: Any = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    with pytest.raises(pp.ImageError, match=re.escape(str(bad))):
        recalibrate(detector, [bad, *OTHERS])
    with pytest.raises(pp.CalibrationError, match="none of the good images"):
        recalibrate(detector, [bad], on_error="skip")
    calibration, skipped = recalibrate(detector, [bad, *OTHERS], on_error="skip")
    assert ([error.path for error in skipped], len(calibration.scores)) == ([str(bad)], 19)


@pytest.mark.parametrize("role", ["good", "defective"])
def test_training_images_and_their_copies_are_refused(role: str, detector: pp.Detector, tmp_path: Path) -> None:
    original = Path(detector.training_images[4])
    copy = Path(shutil.copy(original, tmp_path / "copy.png"))
    for path in (original, copy):
        images: dict[str, Any] = {role: [path]}
        with pytest.raises(pp.CalibrationError, match=f"^{re.escape(str(path))}: .*used to fit") as caught:
            recalibrate(detector, **images)
        assert (f"(as {original})" in str(caught.value)) == (path == copy)


def test_an_image_given_twice_is_refused(detector: pp.Detector, tmp_path: Path) -> None:
    (path,) = tiny.write(tmp_path, 1, first=700)
    with pytest.raises(pp.CalibrationError, match="both as good and as defective"):
        recalibrate(detector, [path], [path])


def test_an_impossible_threshold_is_refused_before_images_are_scored(detector: pp.Detector) -> None:
    tiny.extracted.clear()
    for good, facts in (((), r"at least 99 .* there are 10"), (OTHERS, r"at least 99 .* there are 19")):
        with pytest.raises(pp.CalibrationError, match=facts):
            recalibrate(detector, good, false_alarm_rate=0.01)
    for criterion in ("f1", "cost"):
        with pytest.raises(pp.CalibrationError, match=f"{criterion} needs"):
            recalibrate(detector, OTHERS, criterion=criterion)
    with pytest.raises(pp.CalibrationError, match="cannot be combined with criterion f1"):
        recalibrate(detector, OTHERS, DEFECTIVE, criterion="f1", false_alarm_rate=0.2)
    assert tiny.extracted == []


def test_a_model_of_a_single_image_needs_others() -> None:
    single = tiny.detector().fit([draw(0)])
    with pytest.raises(pp.CalibrationError, match="no scores of good images"):
        recalibrate(single)
    assert recalibrate(single, OTHERS)[0].false_alarm_rate == 0.05


def test_progress_counts_all_images(detector: pp.Detector) -> None:
    stages: list[tuple[str, int, int]] = []
    recalibrate(detector, OTHERS[:3], DEFECTIVE[:1], progress=lambda *stage: stages.append(stage))
    assert stages == [("scoring images", number, 4) for number in range(1, 5)]
