"""More images for a fitted detector: memory bank, covering radius, calibration, and what is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import patchcore_plugin as pp
from tests.models import tiny
from tests.models.tiny import PATCHES, distances, draw, map_of, rows, scores

pytestmark = pytest.mark.slow

OLD = [draw(number) for number in range(12)]
NEW = [draw(number) for number in range(100, 105)]
STREAMING: dict[str, Any] = {"aggregator": {"channels": 8}}


@pytest.fixture(scope="module")
def updated_detector() -> pp.Detector:
    return tiny.detector().fit(OLD).update(NEW)


def radius(detector: pp.Detector, images: list[Any]) -> float:
    """Return the largest distance from a patch of the images to the memory bank."""
    return float(distances(rows(detector, images), detector.bank.vectors).max())


# The memory bank


def test_the_bank_stands_for_all_images(updated_detector: pp.Detector) -> None:
    bank = updated_detector.bank
    assert bank.seen == 17 * PATCHES
    assert len(bank.vectors) == math.ceil(0.1 * 17 * PATCHES)
    before = tiny.detector().fit(OLD)
    assert torch.equal(bank.vectors[: before.bank_rows], before.bank.vectors)
    assert torch.equal(bank.origin[: before.bank_rows], before.bank.origin)
    added = bank.origin[before.bank_rows :]
    assert set(added[:, 0].tolist()) <= set(range(12, 17))
    for row, (image, y, x) in zip(bank.vectors[before.bank_rows :], added.tolist(), strict=True):
        assert torch.equal(row, rows(updated_detector, [NEW[image - 12]]).view(8, 8, -1)[y, x])


def test_the_covering_radius_is_bounded_and_close_to_a_refit(updated_detector: pp.Detector) -> None:
    assert updated_detector.covering_radius is not None
    assert radius(updated_detector, OLD + NEW) <= updated_detector.covering_radius * (1 + 1e-6)
    assert not updated_detector.member.radius_is_exact
    refit = tiny.detector().fit(OLD + NEW)
    assert refit.member.radius_is_exact
    assert refit.covering_radius == pytest.approx(radius(refit, OLD + NEW), rel=1e-6)
    assert updated_detector.covering_radius < 1.5 * radius(refit, OLD + NEW)


def test_several_updates_keep_the_bound() -> None:
    detector, images = tiny.detector().fit(OLD), list(OLD)
    for number in range(4):
        more = [draw(200 + 10 * number + seed) for seed in range(3)]
        detector.update(more)
        images += more
        exact = radius(detector, images)
        assert detector.covering_radius is not None
        assert exact <= detector.covering_radius * (1 + 1e-6) < 1.5 * exact * (1 + 1e-6)
    assert detector.bank.seen == 24 * PATCHES


@pytest.mark.parametrize(
    ("sampler", "stays"),
    [
        ({"name": "greedy-coreset", "count": 60}, False),
        ({"name": "random", "count": 60}, False),
        ({"name": "random"}, True),
        ({"name": "greedy-coreset", "projection_dim": 4}, True),
    ],
)
def test_the_bound_holds_whether_rows_of_the_bank_leave_or_not(sampler: dict[str, Any], stays: bool) -> None:
    detector = tiny.detector(sampler=sampler).fit(OLD)
    before = detector.bank.vectors
    detector.update(NEW)
    assert bool((distances(before, detector.bank.vectors) == 0).all()) is stays
    assert detector.covering_radius is not None
    assert radius(detector, OLD + NEW) <= detector.covering_radius * (1 + 1e-6)


def test_a_streaming_scorer_continues() -> None:
    both = tiny.detector("padim", **STREAMING).fit(OLD + NEW)
    detector = tiny.detector("padim", **STREAMING).fit(OLD)
    before, expected = detector.calibration.scores, scores(detector, NEW)
    detector.update(NEW)
    assert scores(detector, NEW) == pytest.approx(scores(both, NEW), rel=1e-3)
    assert detector.bank.seen == 17 * PATCHES
    assert detector.covering_radius is None
    assert detector.calibration.scores == pytest.approx(sorted([*before, *expected]), rel=1e-5)


@pytest.mark.parametrize("recipe", ["patchcore", "dn2"])
def test_where_all_patches_are_kept_an_update_is_a_fit_on_all_images(recipe: str) -> None:
    both = tiny.detector(recipe, sampler="all").fit(OLD + NEW)
    detector = tiny.detector(recipe, sampler="all").fit(OLD).update(NEW)
    test = [draw(300), draw(301, shift=40)]
    assert scores(detector, test) == pytest.approx(scores(both, test), rel=1e-6)
    assert detector.bank_rows == both.bank_rows
    assert (detector.covering_radius, detector.member.radius_is_exact) == (0.0, True)


def test_image_descriptors_are_those_of_all_images() -> None:
    changes: dict[str, Any] = {"scorer": {"images": 4}, "backbone": {"name": "tiny", "levels": 2}}
    both, detector = (tiny.detector("spade", **changes).fit(images) for images in (OLD + NEW, OLD))
    detector.update(NEW)
    assert detector.bank.descriptors is not None
    assert len(detector.bank.descriptors) == 17
    assert scores(detector, NEW[:2]) == pytest.approx(scores(both, NEW[:2]), rel=1e-5)


# The calibration


def test_images_are_scored_before_they_are_added() -> None:
    detector = tiny.detector().fit(OLD)
    before, expected = detector.calibration, scores(detector, NEW)
    peaks = [float(map_of(prediction).max()) for prediction in detector.predict(NEW)]
    detector.update(NEW)
    calibration = detector.calibration
    assert [score for _, score in detector.held_out_scores] == pytest.approx(expected, rel=1e-6)
    assert calibration.scores == pytest.approx(sorted([*before.scores, *expected]), rel=1e-6)
    assert calibration.peaks == pytest.approx(sorted([*before.peaks, *peaks]), rel=1e-6)
    assert calibration.threshold == max(calibration.scores)
    assert calibration.map_scale == before.map_scale
    assert "17 good images" in calibration.source


def test_a_single_image_is_enough() -> None:
    detector = tiny.detector().fit(OLD)
    (expected,) = scores(detector, NEW[:1])
    detector.update(NEW[:1])
    assert any(score == pytest.approx(expected, rel=1e-6) for score in detector.calibration.scores)
    assert len(detector.calibration.scores) == 13


# Images, files and failures


def test_training_images_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = tiny.write(tmp_path / "images", 8)
    detector = tiny.detector().fit(paths[:6])
    monkeypatch.chdir(tmp_path)
    detector.update([Path("images") / path.name for path in paths])
    assert detector.bank.seen == 8 * PATCHES
    assert len(detector.training_images) == 8
    with pytest.raises(pp.DatasetError, match="all 8 images"):
        detector.update(paths)
    with pytest.raises(pp.DatasetError, match="no images"):
        detector.update([])


@pytest.mark.parametrize(("recipe", "changes"), [("patchcore", {}), ("padim", STREAMING)])
def test_an_update_that_fails_changes_nothing(recipe: str, changes: dict[str, Any], tmp_path: Path) -> None:
    paths = tiny.write(tmp_path, 9)
    paths[8].write_text("not an image")
    detector = tiny.detector(recipe, **changes).fit(OLD)
    detector.save(tmp_path / "before.safetensors")
    with pytest.raises(pp.ImageError, match=re.escape("008.png")):
        detector.update(paths)
    with pytest.raises(pp.ImageError, match="no readable image"):
        detector.update([paths[8]], on_error="skip")
    detector.save(tmp_path / "after.safetensors")
    assert (tmp_path / "after.safetensors").read_bytes() == (tmp_path / "before.safetensors").read_bytes()
    detector.update(paths, on_error="skip")
    assert [error.path for error in detector.skipped] == [str(paths[8])]
    assert len(detector.training_images) == 8


def test_an_updated_detector_is_saved_and_updated_again(updated_detector: pp.Detector, tmp_path: Path) -> None:
    updated_detector.save(tmp_path / "m.safetensors")
    again = pp.Detector.load(tmp_path / "m.safetensors", device="cpu", host=tiny.host())
    assert scores(again, NEW) == scores(updated_detector, NEW)
    assert again.covering_radius == updated_detector.covering_radius
    assert not again.member.radius_is_exact
    assert again.update([draw(400)]).bank.seen == 18 * PATCHES


def test_thumbnails_are_kept_of_all_images_or_of_none() -> None:
    detector = tiny.detector().fit(OLD, keep_thumbnails=True).update(NEW)
    assert sorted(detector.thumbnails) == list(range(17))
    assert not tiny.detector().fit(OLD).update(NEW).thumbnails
