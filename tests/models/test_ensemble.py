"""Ensembles: members made comparable and averaged, what is refused, and one file for all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patchcore_plugin.models.averaging import Unit
from patchcore_plugin.models.fitting.learners import Judged
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.data.images import write_png
from patchcore_plugin.models import file as model_file
from patchcore_plugin.models.calibration import fit_order
from patchcore_plugin.models.preprocessing import anomaly_map, geometry, prepare
from tests.models.ensembles import COARSE, DN2, FINE, GOOD, OTHER, TEST, alone, grids, make, map_of, member


@pytest.fixture(scope="module")
def fitted() -> pp.Detector:
    """Members of two backbones, one of which has two grids."""
    return make(member(FINE), member(OTHER), member(COARSE)).fit(GOOD)


# Averages


def test_scores_and_maps_are_divided_by_those_of_judged_images_and_averaged(fitted: pp.Detector) -> None:
    scores, maps, held_scores, held_maps = [], [], [], []
    for number in range(3):
        everything = alone(fitted, number).fit(GOOD)
        learning = everything._learner(len(GOOD), None)
        for image in np.concatenate(fit_order(len(GOOD), 0)):
            prepared = prepare(GOOD[image], everything.recipe.preprocessing)
            learning.add(everything._parts.patches(prepared[None]))
        judged = learning.judged()
        held = [found.score for found in judged]
        assert everything.calibration.scores == pytest.approx(sorted(held), rel=1e-4)
        peaks = [found.map.max() for found in judged if found.map is not None]
        found = everything.predict(TEST)
        scores.append(np.array([each.score for each in found]) / np.median(held))
        maps.append(np.stack([map_of(each) for each in found]) / np.median(peaks))
        held_scores.append(np.array(held) / np.median(held))
        shape, options = geometry(everything.recipe.preprocessing, GOOD[0].shape[:2]), everything.recipe.map
        full = [anomaly_map(each.map, shape, options) for each in judged if each.map is not None]
        held_maps.append(np.stack(full) / np.median(peaks))
        assert fitted.units[number].score == pytest.approx(np.median(held), rel=1e-4)
        assert fitted.units[number].map == pytest.approx(np.median(peaks), rel=1e-4)
    found = fitted.predict(TEST)
    assert [each.score for each in found] == pytest.approx(np.mean(scores, axis=0), rel=1e-4)
    for each, expected in zip(found, np.mean(maps, axis=0), strict=True):
        assert map_of(each).shape == (80, 96)
        np.testing.assert_allclose(map_of(each), expected, rtol=1e-3)
    assert fitted.calibration.scores == pytest.approx(np.sort(np.mean(held_scores, axis=0)), rel=1e-4)
    assert fitted.threshold == fitted.calibration.scores[-1]
    averaged = np.mean(held_maps, axis=0)
    peaks = averaged.max(axis=(1, 2))
    assert fitted.calibration.peaks == pytest.approx(np.sort(peaks), rel=1e-3)
    usual = np.median(np.median(averaged, axis=(1, 2)))
    assert fitted.map_scale == pytest.approx((np.mean([usual, peaks.max()]), 1.5 * peaks.max()), 1e-3)
    assert fitted.calibration.source == ("scores of 12 good images, each judged by members that do not know it")
    assert [each.is_anomalous for each in found] == [False, True]
    assert {grids(each, TEST[0]).shape for each in fitted.members} == {(8, 8), (4, 4)}


def test_equal_members_are_that_member() -> None:
    ensemble, single = make(member(FINE), member(FINE)).fit(GOOD), make(member(FINE)).fit(GOOD)
    detector = alone(ensemble, 0).fit(GOOD)
    (unit, other) = ensemble.units
    assert unit == other
    for twice, once, plain in zip(*(each.predict(TEST) for each in (ensemble, single, detector)), strict=True):
        assert twice.score == once.score == plain.score / unit.score
        assert np.array_equal(map_of(twice), map_of(once))
        np.testing.assert_allclose(map_of(twice), map_of(plain) / unit.map, rtol=1e-5)
        assert plain.nearest is not None
        assert twice.nearest is not None
        assert twice.nearest.distance == pytest.approx(plain.nearest.distance / unit.map, rel=1e-6)
        assert (twice.nearest.x, twice.nearest.y) == (plain.nearest.x, plain.nearest.y)
    assert ensemble.threshold == single.threshold
    assert ensemble.map_scale == single.map_scale


def test_members_are_the_detectors_that_they_would_be_alone(fitted: pp.Detector) -> None:
    for number, each in enumerate(fitted.members):
        detector = alone(fitted, number).fit(GOOD)
        assert torch.equal(each.bank.vectors, detector.bank.vectors)
        assert each.calibration == detector.calibration
        assert each.predict(TEST)[1].score == detector.predict(TEST)[1].score
    assert fitted.bank_rows == sum(len(each.bank.vectors) for each in fitted.members)


@pytest.mark.parametrize(
    ("scores", "peaks", "expected"),
    [
        ([4.0], [3.0], Unit(score=4.0, map=3.0)),
        ([4.0, 1.0, 100.0], [3.0, 2.0, 9.0], Unit(score=4.0, map=3.0)),
        ([4.0, 2.0], [], Unit(score=3.0, map=1.0)),
        ([0.0, 0.0], [0.0, 0.0], Unit(score=1.0, map=1.0)),
        ([], [], Unit(score=1.0, map=1.0)),
    ],
)
def test_units(scores: list[float], peaks: list[float], expected: Unit) -> None:
    maps = [np.array([[0.0, peak]], dtype=np.float32) for peak in peaks]
    judged = [Judged(score, maps[number] if maps else None) for number, score in enumerate(scores)]
    assert Unit.of_good(judged, "x") == expected


def test_a_single_image_has_no_unit_and_no_threshold() -> None:
    ensemble = make(member(FINE), member(OTHER)).fit(GOOD[:1])
    assert ensemble.units == (Unit(), Unit())
    (found,) = ensemble.predict(TEST[:1])
    assert (ensemble.threshold, found.is_anomalous) == (None, None)
    assert found.score == np.mean([each.predict(TEST[:1])[0].score for each in ensemble.members])
    assert ensemble.calibration.source == (
        "none: too few images to judge one by the others; the members' scores are averaged as they are"
    )


def test_the_map_is_that_of_the_members_that_have_one() -> None:
    mixed = make(DN2, member(FINE)).fit(GOOD)
    single = make(member(FINE)).fit(GOOD)
    for found, plain in zip(mixed.predict(TEST), single.predict(TEST), strict=True):
        assert np.array_equal(map_of(found), map_of(plain))
        assert found.nearest == plain.nearest
        assert found.score != plain.score
    assert mixed.map_scale == single.map_scale
    none = make(DN2, DN2).fit(GOOD)
    (good, bad) = none.predict(TEST)
    assert (good.anomaly_map, good.nearest) == (None, None)
    assert bad.score > good.score
    assert none.map_scale == (0.0, 1.0)


def test_a_member_may_learn_from_patches_as_they_come() -> None:
    padim = {"recipe": "padim", "backbone": FINE, "aggregator": {"channels": 10}}
    ensemble = make(padim, member(FINE)).fit(GOOD)
    assert [len(each.bank.vectors) for each in ensemble.members] == [0, 77]
    good, bad = ensemble.predict(TEST)
    assert bad.score > good.score


def test_the_nearest_patch_is_that_of_the_most_alarmed_member(fitted: pp.Detector) -> None:
    image = TEST[1]
    peaks = [grids(each, image).max() / unit.map for each, unit in zip(fitted.members, fitted.units, strict=True)]
    most = int(np.argmax(peaks))
    (found,) = fitted.predict([image])
    (own,) = fitted.members[most].predict([image])
    assert found.nearest is not None
    assert own.nearest is not None
    assert (found.nearest.x, found.nearest.peak_x) == (own.nearest.x, own.nearest.peak_x)
    assert found.nearest.distance == pytest.approx(max(peaks), rel=1e-5)


def test_a_scorer_that_goes_below_zero_is_refused() -> None:
    @dataclass(frozen=True)
    class Config:
        pass

    class Negative:
        def fit(self, bank: pp.MemoryBank) -> None: ...
        def restore(self, bank: pp.MemoryBank, state: Mapping[str, Tensor]) -> None: ...
        def state(self) -> Mapping[str, Tensor]:
            return {}

        def __call__(self, patches: pp.Patches) -> pp.Scores:
            return pp.Scores(image=torch.full((len(patches.grid),), -2.0))

    class Plugin:
        @pp.hookimpl
        def patchcore_scorers(self) -> list[pp.ScorerSpec]:
            return [pp.ScorerSpec(name="negative", config=Config, create=lambda config: Negative(), summary="-2")]

    with pytest.raises(pp.TensorError) as caught:
        make(member(FINE), member(FINE, scorer="negative"), host=pp.Host(extra={"x": Plugin()})).fit(GOOD)
    assert str(caught.value) == (
        "member 1 (patchcore): gives good images scores below 0 (-2); an ensemble averages scores that start at 0, "
        "such as distances: take another scorer, or leave this member out"
    )


# Images


def test_unreadable_images_are_skipped_by_all_members(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images: list[Any] = [*GOOD[:5], tmp_path / "broken.png", *GOOD[5:]]
    ensemble = make(member(FINE), member(OTHER)).fit(images, on_error="skip")
    assert [error.path for error in ensemble.skipped] == [str(tmp_path / "broken.png")]
    found = list(ensemble.predict_each([TEST[0], tmp_path / "broken.png", TEST[1]], on_error="skip"))
    assert [isinstance(each, pp.ImageError) for each in found] == [False, True, False]
    with pytest.raises(pp.ImageError, match=r"broken\.png"):
        ensemble.fit(images)
    with pytest.raises(pp.TensorError, match="the ensemble is not fitted; call fit or load first"):
        ensemble.predict(TEST)


def test_thumbnails_are_kept_once_for_all_members(tmp_path: Path) -> None:
    ensemble = make(member(FINE), member(OTHER)).fit(GOOD[:3], keep_thumbnails=True).update(GOOD[3:5])
    assert sorted(ensemble.thumbnails) == list(range(5))
    assert [len(each.thumbnails) for each in ensemble.members] == [5, 0]
    ensemble.save(tmp_path / "m")
    tensors, _ = model_file.load(tmp_path / "m")
    assert [name for name in tensors if name.endswith("thumbnails.data")] == ["member0.thumbnails.data"]
    assert pp.Detector.load(tmp_path / "m", device="cpu").thumbnails == ensemble.thumbnails


def test_no_readable_image(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(pp.ImageError, match="no image to fit on; give at least one readable image of a good part"):
        make(member(FINE), member(OTHER)).fit([tmp_path / "broken.png"], on_error="skip")


def test_images_that_change_between_two_members(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        write_png(path, GOOD[number])

    def remove(stage: str, done: int, total: int) -> None:
        if stage.startswith("member 0") and done == total and paths[0].exists():
            paths[0].unlink()

    with pytest.raises(pp.ImageError, match="the images changed while they were read; fit again"):
        make(member(FINE), member(OTHER)).fit(paths, on_error="skip", progress=remove)


# Model files


def test_one_file_gives_the_same_bits_in_another_process(fitted: pp.Detector, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    fitted.save(path)
    for number, image in enumerate(TEST):
        write_png(tmp_path / f"{number}.png", image)
    script = (
        "import sys, patchcore_plugin as pp\n"
        "for each in pp.load_model(sys.argv[1], device='cpu').predict(sys.argv[2:]):\n"
        "    print(each.score.hex(), each.is_anomalous, each.anomaly_map.tobytes().hex(), each.nearest)\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(path), *(str(tmp_path / f"{n}.png") for n in range(2))]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = fitted.predict(TEST)
    assert said.splitlines() == [
        f"{each.score.hex()} {each.is_anomalous} {map_of(each).tobytes().hex()} {each.nearest}" for each in found
    ]
    again = pp.load_model(path, device="cpu")
    assert isinstance(again, pp.Detector)
    assert (again.recipe, again.units, again.calibration) == (fitted.recipe, fitted.units, fitted.calibration)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_either_kind_of_file_is_loaded_without_knowing_which(fitted: pp.Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "many")
    fitted.members[0].save(tmp_path / "one")
    one = pp.load_model(tmp_path / "one", device="cpu")
    assert isinstance(one, pp.Detector)
    assert one.predict(TEST)[1].score == fitted.members[0].predict(TEST)[1].score
    with pytest.raises(pp.ModelFileError) as caught:
        pp.Detector.load(tmp_path / "many")
    assert str(caught.value) == f"{tmp_path / 'many'}: holds an ensemble; load it with patchcore_plugin.load_model"
    with pytest.raises(pp.ModelFileError) as caught:
        pp.Detector.load(tmp_path / "one")
    assert str(caught.value) == f"{tmp_path / 'one'}: holds a single model; load it with patchcore_plugin.load_model"


def test_a_program_without_ensembles_refuses_the_file_and_reads_single_ones(
    fitted: pp.Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted.save(tmp_path / "many")
    fitted.members[0].save(tmp_path / "one")
    monkeypatch.setattr(model_file, "FORMAT_VERSION", 1)
    model_file.read_manifest(tmp_path / "one")
    with pytest.raises(pp.ModelFileError, match="written in format 2, newer than this version reads"):
        model_file.read_manifest(tmp_path / "many")


def test_a_member_whose_plugin_or_weights_are_not_here(fitted: pp.Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "m")
    with pytest.raises(pp.ModelFileError) as caught:
        pp.load_model(tmp_path / "m", device="cpu", host=pp.Host(entry_points=False))
    assert str(caught.value) == (
        f"{tmp_path / 'm'}: needs backbone 'efficientnet-lite0', which is not available here; "
        "pip install --upgrade patchcore-efficientnet-lite (details: patchcore plugins list)"
    )
    tensors, manifest = model_file.load(tmp_path / "m")
    manifest["members"][1]["backbone_sha256"] = "0"
    model_file.save(
        tmp_path / "m", tensors, {key: manifest[key] for key in manifest if key not in ("tensors", "sha256")}
    )
    with pytest.raises(pp.WeightsError, match="backbone 'efficientnet-lite1' has other weights here"):
        pp.load_model(tmp_path / "m", device="cpu")
