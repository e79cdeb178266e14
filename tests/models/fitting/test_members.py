"""Several members: scores on one scale, averaged; failures; and one file for all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.data.images import write_png
from patchcore_plugin.kernels import device
from patchcore_plugin.models import file as model_file
from patchcore_plugin.models.fitting import memory
from patchcore_plugin.models.fitting.fit import FitOptions, choose_strategy, run_fit
from patchcore_plugin.models.normalisation import ScoreScale
from patchcore_plugin.models.preprocessing import anomaly_map, geometry
from tests.models import tiny
from tests.models.tiny import draw, map_of, scores

GOOD = [draw(seed) for seed in range(12)]
NEW = [draw(seed) for seed in range(60, 63)]
TEST = [draw(100), draw(101, defect=True)]
FINE: dict[str, Any] = {"sampler": {"ratio": 0.1}}
OTHER: dict[str, Any] = {"backbone": {"name": "tiny", "channels": 5}, "sampler": {"ratio": 0.2}}
PADIM: dict[str, Any] = {"recipe": "padim", "aggregator": {"channels": 8}}
DN2: dict[str, Any] = {"recipe": "dn2"}


@pytest.fixture(scope="module")
def fitted_detector() -> pp.Detector:
    return tiny.ensemble(FINE, OTHER, PADIM).fit(GOOD)


def alone(detector: pp.Detector, number: int) -> pp.Detector:
    """Return a detector with one of the members only."""
    return pp.Detector(detector.recipe.split()[number], seed=detector.seed, device="cpu", host=tiny.host())


# Averages


def test_scores_and_maps_are_divided_by_those_of_held_out_images_and_averaged() -> None:
    fitted_detector = tiny.ensemble(FINE, OTHER, {"sampler": "all"}).fit(GOOD)
    test_scores, test_maps, held_scores, held_maps = [], [], [], []
    for number in range(3):
        detector = alone(fitted_detector, number)
        options = FitOptions(seed=0)
        pipeline = detector.member.pipeline
        held_out = run_fit(pipeline, GOOD, choose_strategy(pipeline, GOOD, options), options).scores
        each = [held_out[index] for index in range(12)]
        assert detector.fit(GOOD).calibration.scores == pytest.approx(sorted(item.score for item in each), rel=1e-4)
        score = np.median([item.score for item in each])
        peak = np.median([item.map.max() for item in each if item.map is not None])
        assert fitted_detector.members[number].scale.score == pytest.approx(score, rel=1e-4)
        assert fitted_detector.members[number].scale.map == pytest.approx(peak, rel=1e-4)
        predictions = detector.predict(TEST)
        test_scores.append(np.array([prediction.score for prediction in predictions]) / score)
        test_maps.append(np.stack([map_of(prediction) for prediction in predictions]) / peak)
        shape, recipe = geometry(detector.recipe.preprocessing, (40, 48)), detector.recipe
        held_scores.append(np.array([item.score for item in each]) / score)
        held_maps.append(
            np.stack([anomaly_map(item.map, shape, recipe.map) for item in each if item.map is not None]) / peak
        )
    predictions = fitted_detector.predict(TEST)
    assert [each.score for each in predictions] == pytest.approx(np.mean(test_scores, axis=0), rel=1e-4)
    for prediction, expected in zip(predictions, np.mean(test_maps, axis=0), strict=True):
        np.testing.assert_allclose(map_of(prediction), expected, rtol=1e-3)
    calibration = fitted_detector.calibration
    assert [score for _, score in fitted_detector.held_out_scores] == pytest.approx(
        np.mean(held_scores, axis=0), rel=1e-4
    )
    assert calibration.scores == pytest.approx(np.sort(np.mean(held_scores, axis=0)), rel=1e-4)
    assert fitted_detector.threshold == calibration.scores[-1]
    averaged = np.mean(held_maps, axis=0)
    peaks = averaged.max(axis=(1, 2))
    assert calibration.peaks == pytest.approx(np.sort(peaks), rel=1e-3)
    usual = np.median(np.median(averaged, axis=(1, 2)))
    assert fitted_detector.map_scale == pytest.approx((np.mean([usual, peaks.max()]), 1.5 * peaks.max()), 1e-3)
    assert "12 good images" in calibration.source
    assert [each.is_anomalous for each in predictions] == [False, True]


def test_equal_members_are_that_member() -> None:
    ensemble = tiny.ensemble(FINE, FINE).fit(GOOD)
    detector = alone(ensemble, 0).fit(GOOD)
    first, second = (member.scale for member in ensemble.members)
    assert first == second
    for twice, plain in zip(ensemble.predict(TEST), detector.predict(TEST), strict=True):
        assert twice.score == plain.score / first.score
        np.testing.assert_allclose(map_of(twice), map_of(plain) / first.map, rtol=1e-5)
        assert plain.nearest is not None
        assert twice.nearest is not None
        assert twice.nearest.distance == pytest.approx(plain.nearest.distance / first.map, rel=1e-6)
        assert (twice.nearest.x, twice.nearest.y) == (plain.nearest.x, plain.nearest.y)


def test_a_recipe_of_one_member_in_a_list_is_a_single_method() -> None:
    listed, plain = tiny.ensemble(FINE).fit(GOOD), tiny.detector().fit(GOOD)
    assert scores(listed, TEST) == scores(plain, TEST)
    assert listed.threshold == plain.threshold


def test_members_are_the_detectors_that_they_would_be_alone(fitted_detector: pp.Detector) -> None:
    for number, member in enumerate(fitted_detector.members):
        detector = alone(fitted_detector, number).fit(GOOD)
        assert torch.equal(member.bank.vectors, detector.bank.vectors)
        assert member.bank.seen == detector.bank.seen == 12 * tiny.PATCHES
        assert member.covering_radius == detector.covering_radius
    assert [member.bank_rows for member in fitted_detector.members] == [77, 154, 0]
    assert fitted_detector.bank_rows == 231


def test_grids_of_several_sizes_are_averaged() -> None:
    coarse = {"backbone": {"name": "tiny", "levels": 2}, "aggregator": {"stride": 2}}
    ensemble = tiny.ensemble(FINE, coarse).fit(GOOD)
    good, bad = ensemble.predict(TEST)
    assert map_of(good).shape == (40, 48)
    assert bad.score > good.score
    assert {len(member.bank.origin[:, 1].unique()) for member in ensemble.members} == {8, 4}


def test_a_single_image_has_no_scale_and_no_threshold() -> None:
    ensemble = tiny.ensemble(FINE, OTHER).fit(GOOD[:1])
    assert [member.scale for member in ensemble.members] == [ScoreScale(), ScoreScale()]
    (prediction,) = ensemble.predict(TEST[:1])
    assert (ensemble.threshold, prediction.is_anomalous) == (None, None)
    expected = [scores(alone(ensemble, number).fit(GOOD[:1]), TEST[:1])[0] for number in range(2)]
    assert prediction.score == pytest.approx(np.mean(expected))
    assert ensemble.calibration.source.startswith("none: ")


def test_the_map_is_that_of_the_members_that_have_one() -> None:
    mixed, plain = tiny.ensemble(DN2, FINE).fit(GOOD), tiny.detector().fit(GOOD)
    scale = mixed.members[1].scale.map
    for prediction, single in zip(mixed.predict(TEST), plain.predict(TEST), strict=True):
        np.testing.assert_allclose(map_of(prediction), map_of(single) / scale, rtol=1e-5)
        assert prediction.nearest is not None
        assert single.nearest is not None
        assert (prediction.nearest.x, prediction.nearest.y) == (single.nearest.x, single.nearest.y)
    none = tiny.ensemble(DN2, DN2).fit(GOOD)
    good, bad = none.predict(TEST)
    assert (good.anomaly_map, good.nearest) == (None, None)
    assert bad.score > good.score
    assert none.map_scale == (0.0, 1.0)


def test_the_nearest_patch_is_that_of_the_highest_normalised_score() -> None:
    ensemble = tiny.ensemble(FINE, OTHER).fit(GOOD)
    nearest = [alone(ensemble, number).fit(GOOD).predict(TEST[1:])[0].nearest for number in range(2)]
    scaled = [each.distance / member.scale.map for each, member in zip(nearest, ensemble.members, strict=True) if each]
    highest = nearest[int(np.argmax(scaled))]
    (prediction,) = ensemble.predict(TEST[1:])
    assert prediction.nearest is not None
    assert highest is not None
    assert (prediction.nearest.x, prediction.nearest.peak_x) == (highest.x, highest.peak_x)
    assert prediction.nearest.distance == pytest.approx(max(scaled), rel=1e-5)


# Failures


class Scorer:
    """A scorer whose scores are all `score`, and that fails from a number of fits on."""

    fits_until_failure = 10**9
    score = 1.0

    def fit(self, bank: pp.MemoryBank) -> None:
        type(self).fits_until_failure -= 1
        if type(self).fits_until_failure < 0:
            raise pp.TensorError("the scorer fails")

    def restore(self, bank: pp.MemoryBank, state: Mapping[str, Tensor]) -> None: ...

    def state(self) -> Mapping[str, Tensor]:
        return {}

    def __call__(self, patches: pp.Patches) -> pp.Scores:
        return pp.Scores(image=torch.full((len(patches.grid),), self.score))


def with_scorer(kind: type[Scorer]) -> pp.Detector:
    """Return a detector whose second member has this scorer."""

    class Plugin:
        @staticmethod
        @pp.hookimpl
        def patchcore_scorers() -> list[pp.ScorerSpec]:
            return [pp.ScorerSpec(name="drawn", config=tiny.Config, create=lambda config: kind(), summary="one score")]

    recipe = tiny.members(FINE, {"scorer": "drawn"})
    return pp.Detector(recipe, device="cpu", host=tiny.host(drawn=Plugin()))


def test_a_scorer_below_zero_is_refused() -> None:
    class Negative(Scorer):
        score = -2.0

    with pytest.raises(pp.TensorError, match=r"^member 1 \(patchcore\): .*\(-2\)"):
        with_scorer(Negative).fit(GOOD)


@pytest.mark.parametrize("call", ["fit", "update"])
def test_a_member_that_fails_leaves_all_members_as_they_were(call: str, tmp_path: Path) -> None:
    """The first member is fitted already when the scorer of the second fails."""

    class Failing(Scorer):
        pass

    detector = with_scorer(Failing).fit(GOOD, keep_thumbnails=True)
    detector.save(tmp_path / "before.safetensors")
    members, held_out = detector.members, detector.held_out_scores
    Failing.fits_until_failure = 0
    stages: list[str] = []
    with pytest.raises(pp.TensorError, match="the scorer fails"):
        getattr(detector, call)(NEW, progress=lambda stage, done, total: stages.append(stage))
    assert any(stage.startswith("member 1") for stage in stages)
    assert detector.members is members
    assert detector.held_out_scores is held_out
    Failing.fits_until_failure = 10**9
    detector.save(tmp_path / "after.safetensors")
    assert (tmp_path / "after.safetensors").read_bytes() == (tmp_path / "before.safetensors").read_bytes()
    assert len(getattr(detector, call)(NEW).images) == (15 if call == "update" else 3)


@pytest.mark.parametrize("order", [1, -1])
def test_the_memory_of_all_members_is_checked_before_the_first_is_fitted(
    order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {"backbone": {"name": "tiny", "channels": 50}}
    small = memory.fit_bytes(12, pp.Patches(torch.zeros(1, 8, 8, tiny.DIMS)))
    monkeypatch.setattr(device, "available", lambda device: 2 * small)
    tiny.extracted.clear()
    stages: list[str] = []
    with pytest.raises(pp.PatchcoreError, match="patches of 50 values") as caught:
        tiny.ensemble(*[{}, large][::order]).fit(GOOD, progress=lambda stage, done, total: stages.append(stage))
    assert str(caught.value).startswith("member 1 " if order == 1 else "member 0 ")
    assert stages == []
    assert sum(tiny.extracted) <= 2  # one image for each member


def test_a_memory_budget_is_for_one_member() -> None:
    with pytest.raises(pp.OptionError, match="has 2"):
        tiny.ensemble({}, {}).fit(GOOD, memory_budget=10**9)


# Images


def test_unreadable_images_are_skipped_by_all_members(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    images: list[Any] = [*GOOD[:5], broken, *GOOD[5:]]
    ensemble = tiny.ensemble(FINE, PADIM).fit(images, on_error="skip")
    assert [error.path for error in ensemble.skipped] == [str(broken)]
    predictions = list(ensemble.predict_each([TEST[0], broken, TEST[1]], on_error="skip"))
    assert [isinstance(each, pp.ImageError) for each in predictions] == [False, True, False]
    with pytest.raises(pp.ImageError, match=r"broken\.png"):
        ensemble.fit(images)
    with pytest.raises(pp.ImageError, match="no readable image"):
        ensemble.fit([broken], on_error="skip")


def test_members_that_read_other_images_are_refused(tmp_path: Path) -> None:
    paths = tiny.write(tmp_path, 4)

    def remove(stage: str, done: int, total: int) -> None:
        if stage.startswith("member 0") and done == total:
            paths[0].unlink(missing_ok=True)

    with pytest.raises(pp.ImageError, match="the images changed while they were read"):
        tiny.ensemble(FINE, OTHER).fit(paths, on_error="skip", progress=remove)


def test_progress_and_announcements_name_the_member() -> None:
    stages: list[str] = []
    lines: list[str] = []
    ensemble = tiny.ensemble(FINE, OTHER)
    ensemble.fit(GOOD, progress=lambda stage, done, total: stages.append(stage), announce=lines.append)
    assert {stage.partition(":")[0] for stage in stages} == {"member 0 (patchcore)", "member 1 (patchcore)"}
    assert [line.partition(":")[0] for line in lines] == ["member 0 (patchcore)", "member 1 (patchcore)"]


def test_thumbnails_are_kept_once_for_all_members(tmp_path: Path) -> None:
    ensemble = tiny.ensemble(FINE, OTHER).fit(GOOD[:3], keep_thumbnails=True).update(GOOD[3:5])
    assert sorted(ensemble.thumbnails) == list(range(5))
    ensemble.save(tmp_path / "m.safetensors")
    tensors, _ = model_file.load(tmp_path / "m.safetensors")
    assert [name for name in tensors if name.endswith("thumbnails.data")] == ["member0.thumbnails.data"]
    again = pp.Detector.load(tmp_path / "m.safetensors", device="cpu", host=tiny.host())
    assert again.thumbnails == ensemble.thumbnails


# Updates


def test_members_are_updated_one_by_one() -> None:
    ensemble = tiny.ensemble(FINE, PADIM).fit(GOOD)
    scales = [member.scale for member in ensemble.members]
    before, expected = ensemble.calibration.scores, scores(ensemble, NEW)
    ensemble.update(NEW)
    assert [member.scale for member in ensemble.members] == scales
    assert [member.bank.seen for member in ensemble.members] == [15 * tiny.PATCHES] * 2
    assert ensemble.calibration.scores == pytest.approx(sorted([*before, *expected]), rel=1e-5)
    assert [score for _, score in ensemble.held_out_scores] == pytest.approx(expected, rel=1e-5)
    assert len(ensemble.images) == 15
    single = tiny.detector().fit(GOOD).update(NEW)
    assert torch.equal(ensemble.members[0].bank.vectors, single.bank.vectors)


# Model files


def test_a_file_gives_the_same_predictions_and_the_same_file(fitted_detector: pp.Detector, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    fitted_detector.save(path)
    again = pp.load_model(path, device="cpu", host=tiny.host())
    assert isinstance(again, pp.Detector)
    assert (again.recipe, again.calibration) == (fitted_detector.recipe, fitted_detector.calibration)
    assert [member.scale for member in again.members] == [member.scale for member in fitted_detector.members]
    for one, other in zip(again.predict(TEST), fitted_detector.predict(TEST), strict=True):
        assert (one.score, one.nearest) == (other.score, other.nearest)
        assert np.array_equal(map_of(one), map_of(other))
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_single_member_with_a_scale_needs_format_2(tmp_path: Path) -> None:
    """Older versions wrote such files for a list of one member."""
    detector = tiny.detector().fit(GOOD)
    plain = scores(detector, TEST)
    member, path = detector.member, tmp_path / "m.safetensors"
    scale = ScoreScale(score=2.0, map=4.0)
    detector.members = (pp.Member(pipeline=member.pipeline, state=member.fitted, scale=scale),)
    detector.save(path)
    again = pp.Detector.load(path, device="cpu", host=tiny.host())
    assert again.member.scale == scale
    assert scores(again, TEST) == pytest.approx([score / 2 for score in plain])
    assert len(again.describe()["members"]) == 1


@pytest.mark.e2e
def test_another_process_gives_the_same_bits(tmp_path: Path) -> None:
    layers, path = ("stage3", "stage4"), tmp_path / "m.safetensors"
    entries = [{"backbone": {"name": "efficientnet-lite0", "layers": [layer]}, **FINE} for layer in layers]
    detector = pp.Detector(tiny.members(*entries), device="cpu").fit(GOOD)
    detector.save(path)
    for number, image in enumerate(TEST):
        write_png(tmp_path / f"{number}.png", image)
    script = (
        "import sys, patchcore_plugin as pp\n"
        "for each in pp.load_model(sys.argv[1], device='cpu').predict(sys.argv[2:]):\n"
        "    print(each.score.hex(), each.is_anomalous, each.anomaly_map.tobytes().hex(), each.nearest)\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(path), *(str(tmp_path / f"{n}.png") for n in range(2))]
    output = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    assert output.splitlines() == [
        f"{each.score.hex()} {each.is_anomalous} {map_of(each).tobytes().hex()} {each.nearest}"
        for each in detector.predict(TEST)
    ]


def test_a_program_that_knows_format_1_only_refuses_the_file_of_several(
    fitted_detector: pp.Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted_detector.save(tmp_path / "many.safetensors")
    alone(fitted_detector, 0).fit(GOOD).save(tmp_path / "one.safetensors")
    monkeypatch.setattr(model_file, "FORMAT_VERSION", 1)
    model_file.read_manifest(tmp_path / "one.safetensors")
    with pytest.raises(pp.ModelFileError, match="format 2"):
        model_file.read_manifest(tmp_path / "many.safetensors")


def test_a_member_whose_plugin_or_weights_are_missing(fitted_detector: pp.Detector, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    fitted_detector.save(path)
    with pytest.raises(pp.ModelFileError, match=r"needs backbone 'tiny'.*pip install"):
        pp.load_model(path, device="cpu", host=pp.Host(entry_points=False))
    tensors, manifest = model_file.load(path)
    manifest["members"][1]["backbone_sha256"] = "0"
    content = {key: value for key, value in manifest.items() if key not in ("tensors", "sha256")}
    model_file.save(path, tensors, content, version=2)
    with pytest.raises(pp.WeightsError, match="backbone 'tiny' has other weights"):
        pp.load_model(path, device="cpu", host=tiny.host())
