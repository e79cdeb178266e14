"""Ensembles: members made comparable and averaged, layers computed once, one file, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin import learning, memory, model_file
from patchcore_plugin.averaging import Unit
from patchcore_plugin.calibration import fit_order
from patchcore_plugin.cli import main
from patchcore_plugin.images import write_png
from patchcore_plugin.learning import Judged
from patchcore_plugin.preprocessing import anomaly_map, geometry, prepare

Photo = NDArray[np.uint8]


def draw(seed: int, *, defect: bool = False) -> Photo:
    """Return a noisy disc on a plate, 80 x 96; the defect is a dark blot at its right."""
    rng = np.random.default_rng(seed)
    photo = np.full((80, 96, 3), 190.0)
    cv2.circle(photo, (48 + int(rng.integers(-3, 4)), 40), 26, (90.0, 140.0, 90.0), -1)
    if defect:
        cv2.circle(photo, (64, 40), 8, (10.0, 10.0, 60.0), -1)
    return np.clip(photo + rng.normal(0, 4, photo.shape), 0, 255).astype(np.uint8)


GOOD = [draw(seed) for seed in range(12)]
TEST = [draw(100), draw(101, defect=True)]
FINE = {"name": "efficientnet-lite0", "layers": ["stage3", "stage4"]}
COARSE = {"name": "efficientnet-lite0", "layers": ["stage5"]}
OTHER = {"name": "efficientnet-lite1", "layers": ["stage3"]}
DN2 = {"recipe": "dn2", "backbone": FINE}


def member(backbone: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {"recipe": "patchcore", "backbone": backbone, "sampler": {"ratio": 0.1}, **changes}


def recipe(*members: Any, **tables: Any) -> pp.EnsembleRecipe:
    return pp.EnsembleRecipe.from_dict(
        {"name": "mine", "preprocessing": {"size": [64, 64]}, **tables, "members": [*members]}
    )


def make(*members: Any, seed: int = 0, host: pp.Host | None = None, **tables: Any) -> pp.Ensemble:
    return pp.Ensemble(recipe(*members, **tables), seed=seed, device="cpu", host=host)


def alone(ensemble: pp.Ensemble, number: int, host: pp.Host | None = None) -> pp.Detector:
    """Return a detector of its own of a member's recipe."""
    return pp.Detector(ensemble.recipe.members[number], seed=ensemble.seed, device="cpu", host=host)


def grids(detector: pp.Detector, photo: Photo) -> NDArray[np.float32]:
    """Return the patch scores of a photo, by the plain way through the components."""
    parts = detector._parts
    found = parts.score(parts.patches(prepare(photo, detector.recipe.preprocessing)[None])).map
    assert found is not None
    return np.asarray(found[0].numpy())


def map_of(prediction: pp.Prediction) -> NDArray[np.float32]:
    assert prediction.anomaly_map is not None
    return prediction.anomaly_map


@pytest.fixture(scope="module")
def fitted() -> pp.Ensemble:
    """Members of two backbones, one of which has two grids."""
    return make(member(FINE), member(OTHER), member(COARSE)).fit(GOOD)


# Averages


def test_scores_and_maps_are_divided_by_those_of_judged_photos_and_averaged(fitted: pp.Ensemble) -> None:
    scores, maps, held_scores, held_maps = [], [], [], []
    for number in range(3):
        everything = alone(fitted, number).fit(GOOD)
        learning = everything._learner(len(GOOD), None)
        for photo in np.concatenate(fit_order(len(GOOD), 0)):
            prepared = prepare(GOOD[photo], everything.recipe.preprocessing)
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
    assert fitted.calibration.source == ("scores of 12 good photos, each judged by members that do not know it")
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


def test_members_are_the_detectors_that_they_would_be_alone(fitted: pp.Ensemble) -> None:
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


def test_a_single_photo_has_no_unit_and_no_threshold() -> None:
    ensemble = make(member(FINE), member(OTHER)).fit(GOOD[:1])
    assert ensemble.units == (Unit(), Unit())
    (found,) = ensemble.predict(TEST[:1])
    assert (ensemble.threshold, found.is_anomalous) == (None, None)
    assert found.score == np.mean([each.predict(TEST[:1])[0].score for each in ensemble.members])
    assert ensemble.calibration.source == (
        "none: too few photos to judge one by the others; the members' scores are averaged as they are"
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


def test_the_nearest_patch_is_that_of_the_most_alarmed_member(fitted: pp.Ensemble) -> None:
    photo = TEST[1]
    peaks = [grids(each, photo).max() / unit.map for each, unit in zip(fitted.members, fitted.units, strict=True)]
    most = int(np.argmax(peaks))
    (found,) = fitted.predict([photo])
    (own,) = fitted.members[most].predict([photo])
    assert found.nearest is not None
    assert own.nearest is not None
    assert (found.nearest.x, found.nearest.peak_x) == (own.nearest.x, own.nearest.peak_x)
    assert found.nearest.distance == pytest.approx(max(peaks), rel=1e-5)


# Work that is shared


class Counting:
    """A backbone of two layers, that counts its calls; `telling` whether it says which they are."""

    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, layers: Sequence[str], shift: float, calls: list[int], telling: bool) -> None:
        self._layers, self._shift, self._calls = layers, shift, calls
        if telling:
            self.layers = tuple(name for name in ("fine", "coarse") if name in layers)

    def __call__(self, images: Tensor) -> list[Tensor]:
        self._calls.append(len(images))
        strides = {"fine": 8, "coarse": 16}
        pooled = {name: torch.nn.functional.avg_pool2d(images + self._shift, strides[name]) for name in strides}
        return [pooled[name] for name in strides if name in self._layers]

    def to(self, device: Any) -> Counting:
        return self

    def weight_hash(self) -> str:
        return f"{self._layers} {self._shift}"


def counting(calls: list[int], *, telling: bool = True) -> pp.Host:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        layers: tuple[str, ...] = ("fine",)
        shift: float = 0.0

    class Plugin:
        @pp.hookimpl
        def patchcore_backbones(self) -> list[pp.BackboneSpec]:
            def create(config: Config) -> Counting:
                return Counting(config.layers, config.shift, calls, telling)

            return [pp.BackboneSpec(name="counting", config=Config, create=create, summary="counts")]

    return pp.Host(entry_points=False, extra={"counting": Plugin()})


FIRST = {"name": "counting", "layers": ["fine"]}


@pytest.mark.parametrize(
    ("second", "telling", "passes"),
    [
        (FIRST, True, 1),
        (FIRST, False, 1),
        ({**FIRST, "layers": ["coarse"]}, True, 1),
        ({**FIRST, "layers": ["coarse", "fine"]}, True, 1),
        ({**FIRST, "layers": ["coarse"]}, False, 2),
        ({**FIRST, "shift": 1.0}, True, 2),
    ],
)
@pytest.mark.parametrize("tiles", [{}, {"tile": [32, 32]}], ids=["whole", "tiles"])
def test_layers_are_computed_once(
    second: dict[str, Any], telling: bool, passes: int, tiles: dict[str, Any], tmp_path: Path
) -> None:
    calls: list[int] = []
    host = counting(calls, telling=telling)
    preprocessing = {"size": [64, 64], **tiles}
    ensemble = make(member(FIRST), member(second, scorer="knn"), host=host, preprocessing=preprocessing)

    def counted(work: Callable[[], object]) -> int:
        calls.clear()
        work()
        return len(calls)

    detectors = [alone(ensemble, number, host) for number in range(2)]
    one_photo = 4 if tiles else 1
    fit = counted(lambda: detectors[0].fit(GOOD))
    assert counted(lambda: ensemble.fit(GOOD)) == passes * (fit + one_photo)
    assert counted(lambda: ensemble.predict(GOOD)) == passes * counted(lambda: detectors[0].predict(GOOD))
    detectors[1].fit(GOOD)
    for each, detector in zip(ensemble.members, detectors, strict=True):
        assert torch.equal(each.bank.vectors, detector.bank.vectors)
        assert [a.score for a in each.predict(TEST)] == [b.score for b in detector.predict(TEST)]
    ensemble.save(tmp_path / "m")
    again = pp.Ensemble.load(tmp_path / "m", device="cpu", host=host)
    assert [a.score for a in again.predict(TEST)] == [b.score for b in ensemble.predict(TEST)]


def test_only_members_that_share_a_backbone_are_in_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[learning.Kept] = weakref.WeakSet()
    held: list[int] = []

    class Watched(learning.Kept):
        def hold_out(self) -> None:
            super().hold_out()
            alive.add(self)

        def learned(self) -> learning.Learned:
            held.append(len(alive))
            return super().learned()

    monkeypatch.setattr(learning, "Kept", Watched)
    make(member(FINE), member(OTHER), member({**OTHER, "weights": "random"})).fit(GOOD[:3])
    assert held == [1, 1, 1]
    held.clear()
    make(member(FINE), member(OTHER), member(COARSE)).fit(GOOD[:3])
    assert held == [2, 1, 1]


def test_memory_for_members_that_are_fitted_together_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def fit(*members: Any, free: int) -> None:
        monkeypatch.setattr(memory, "available", lambda device: free)
        make(*members).fit(GOOD, progress=lambda stage, done, total: read.append(stage))

    needed = memory.check(12, 64, 40 + 80, torch.device("cpu"))
    enough = int(1.5 * needed)
    fit(member(FINE), member({**FINE, "weights": "random"}), free=enough)
    read.clear()
    with pytest.raises(pp.PatchcoreError) as caught:
        fit(member(FINE), member(FINE), free=enough)
    assert str(caught.value) == (
        "member 0 (patchcore) and member 1 (patchcore) share a backbone and are fitted together: about 0.0 GB are "
        "needed and 0.0 GB are free; take fewer photos, raise aggregator.stride, or lower preprocessing.size"
    )
    with pytest.raises(pp.PatchcoreError, match="12 photos make 768 patches of 120 values"):
        fit(member(OTHER), member(FINE), free=int(0.9 * needed))
    assert read == []


# Model files


def test_one_file_gives_the_same_bits_in_another_process(fitted: pp.Ensemble, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    fitted.save(path)
    for number, photo in enumerate(TEST):
        write_png(tmp_path / f"{number}.png", photo)
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
    assert isinstance(again, pp.Ensemble)
    assert (again.recipe, again.units, again.calibration) == (fitted.recipe, fitted.units, fitted.calibration)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_either_kind_of_file_is_loaded_without_knowing_which(fitted: pp.Ensemble, tmp_path: Path) -> None:
    fitted.save(tmp_path / "many")
    fitted.members[0].save(tmp_path / "one")
    one = pp.load_model(tmp_path / "one", device="cpu")
    assert isinstance(one, pp.Detector)
    assert one.predict(TEST)[1].score == fitted.members[0].predict(TEST)[1].score
    with pytest.raises(pp.ModelFileError) as caught:
        pp.Detector.load(tmp_path / "many")
    assert str(caught.value) == f"{tmp_path / 'many'}: holds an ensemble; load it with patchcore_plugin.load_model"
    with pytest.raises(pp.ModelFileError) as caught:
        pp.Ensemble.load(tmp_path / "one")
    assert str(caught.value) == f"{tmp_path / 'one'}: holds a single model; load it with patchcore_plugin.load_model"


def test_a_program_without_ensembles_refuses_the_file_and_reads_single_ones(
    fitted: pp.Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted.save(tmp_path / "many")
    fitted.members[0].save(tmp_path / "one")
    monkeypatch.setattr(model_file, "FORMAT_VERSION", 1)
    model_file.read_manifest(tmp_path / "one")
    with pytest.raises(pp.ModelFileError, match="written in format 2, newer than this version reads"):
        model_file.read_manifest(tmp_path / "many")


def test_a_member_whose_plugin_or_weights_are_not_here(fitted: pp.Ensemble, tmp_path: Path) -> None:
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


# Photos


def test_unreadable_photos_are_skipped_by_all_members(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    photos: list[Any] = [*GOOD[:5], tmp_path / "broken.png", *GOOD[5:]]
    ensemble = make(member(FINE), member(OTHER)).fit(photos, on_error="skip")
    assert [error.path for error in ensemble.skipped] == [str(tmp_path / "broken.png")]
    found = list(ensemble.predict_each([TEST[0], tmp_path / "broken.png", TEST[1]], on_error="skip"))
    assert [isinstance(each, pp.ImageError) for each in found] == [False, True, False]
    with pytest.raises(pp.ImageError, match=r"broken\.png"):
        ensemble.fit(photos)
    with pytest.raises(pp.TensorError, match="the ensemble is not fitted; call fit or load first"):
        ensemble.predict(TEST)


def test_no_readable_photo(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(pp.ImageError, match="no photo to fit on; give at least one readable photo of a good part"):
        make(member(FINE), member(OTHER)).fit([tmp_path / "broken.png"], on_error="skip")


def test_photos_that_change_between_two_members(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        write_png(path, GOOD[number])

    def remove(stage: str, done: int, total: int) -> None:
        if stage.startswith("member 0") and done == total and paths[0].exists():
            paths[0].unlink()

    with pytest.raises(pp.ImageError, match="the photos changed while they were read; fit again"):
        make(member(FINE), member(OTHER)).fit(paths, on_error="skip", progress=remove)


# Recipes


def refused(*members: Any, **tables: Any) -> str:
    with pytest.raises(pp.OptionError) as caught:
        recipe(*members, **tables)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix("recipe 'mine'")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], ": an ensemble needs at least one member"),
        (["patchcore-ensemble"], ", member 0: 'patchcore-ensemble' is an ensemble itself; name its members instead"),
        ([{"recipe": "patchcore-ensemble"}], ", member 0: 'patchcore-ensemble' is an ensemble itself; "),
        (["patchcore", "patchcor-1"], ", member 1: unknown recipe 'patchcor-1'; did you mean 'patchcore-1'? "),
        (["none.toml"], ", member 0: recipe file none.toml does not exist"),
        ([7], ", member 0: expected the name of a recipe, or a table, got 7"),
        ([{"recipe": 7}], ", member 0: recipe must be the name of one, or a path, got 7"),
        (
            [{"recipe": "patchcore", "preprocessing": {"size": [8, 8]}}],
            ", member 0: preprocessing is one for all members; write it as the ensemble's table [preprocessing]",
        ),
        (
            [{"recipe": "patchcore", "smapler": "all"}],
            ", member 0: unknown entry smapler = 'all'; beside recipe, name and summary it may have, as a name or a "
            "table: backbone, aggregator, sampler, scorer",
        ),
        ([{"recipe": "patchcore", "sampler": 5}], ", member 0: unknown entry sampler = 5; "),
        ([{"name": "x"}], ", member 0: recipe 'x': needs a table [backbone] with a name"),
    ],
)
def test_what_is_said_about_wrong_members(members: list[Any], message: str) -> None:
    assert refused(*members).startswith(message)


def test_what_is_said_about_a_wrong_ensemble() -> None:
    assert refused("patchcore", smapler={}) == (
        ": unknown entry 'smapler'; an ensemble's entries are: name, summary, members, preprocessing, map"
    )
    assert refused("patchcore", map=[{}]) == ": map must be a table of options, got [{}]"
    assert refused("patchcore", map={"sgima": 1}).startswith(", map: unknown option 'sgima'; did you mean 'sigma'? ")
    with pytest.raises(pp.OptionError, match="recipe 'x': members must be a list of recipes, got 'patchcore'"):
        pp.EnsembleRecipe.from_dict({"name": "x", "members": "patchcore"})
    with pytest.raises(pp.OptionError) as caught:
        pp.EnsembleRecipe.from_dict({"name": "x", "members": ["patchcore", "patchcore-paper"]})
    assert str(caught.value) == (
        "recipe 'x': its members 0 (patchcore) and 1 (patchcore-paper) differ in preprocessing; "
        "give the ensemble a table [preprocessing] for all of them"
    )


def test_preprocessing_is_the_ensembles() -> None:
    agreed = pp.EnsembleRecipe.from_dict({"members": ["patchcore-paper", "patchcore-paper"]})
    assert agreed.preprocessing.crop == (224, 224)
    given = recipe("patchcore", "patchcore-paper", map={"sigma": 1})
    assert {each.preprocessing for each in given.members} == {given.preprocessing}
    assert (given.preprocessing.size, given.preprocessing.crop, given.map.sigma) == ((64, 64), None, 1)


def test_changes_are_for_all_members_or_one() -> None:
    plain = recipe("patchcore", "patchcore-paper")
    assert [each.sampler.options["ratio"] for each in plain.change("sampler", {"ratio": 0.3}).members] == [0.3, 0.3]
    one = plain.change("1.sampler", {"ratio": 0.3}).change("0.backbone", "resnet18")
    assert [each.sampler.options["ratio"] for each in one.members] == [0.1, 0.3]
    assert [each.backbone.name for each in one.members] == ["resnet18", "wide_resnet50"]
    assert plain.change("map", {"sigma": 2}).map.sigma == 2
    for part in ("2.sampler", "-1.sampler", "1.map", "0."):
        with pytest.raises(pp.OptionError) as caught:
            plain.change(part, {})
        assert str(caught.value) == (
            f"unknown part {part!r} of an ensemble; a part of one member is its number, from 0 to 1, and a role, "
            "such as 0.sampler"
        )
    with pytest.raises(pp.OptionError, match="unknown part 'smapler' of a recipe; it has: "):
        plain.change("smapler", {})


def test_a_member_with_a_wrong_option_is_named() -> None:
    with pytest.raises(pp.OptionError) as caught:
        recipe("patchcore", {"recipe": "patchcore", "name": "two", "scorer": {"neigh": 1}}).resolved(pp.Host(), 0)
    assert str(caught.value).startswith("recipe 'mine', member 1 (two): scorer 'knn': unknown option 'neigh'; ")
    with pytest.raises(pp.PluginError, match=r"recipe 'mine', member 0 \(patchcore\): unknown sampler 'rondom'"):
        recipe({"recipe": "patchcore", "sampler": "rondom"}).resolved(pp.Host(), 0)


def test_the_papers_ensemble() -> None:
    shipped = pp.load_recipe("patchcore-ensemble")
    assert isinstance(shipped, pp.EnsembleRecipe)
    assert shipped.preprocessing.size == (320, 320)
    assert shipped.preprocessing.crop is None
    resolved = shipped.resolved(pp.Host(entry_points=False), seed=4)
    assert [(each.backbone.name, each.backbone.options["layers"]) for each in resolved.members] == [
        ("wide_resnet101", ("layer2", "layer3")),
        ("resnext101", ("layer2", "layer3")),
        ("densenet201", ("denseblock2", "denseblock3")),
    ]
    assert {each.sampler.options["ratio"] for each in resolved.members} == {0.01}
    assert {each.sampler.options["seed"] for each in resolved.members} == {4}


def test_an_ensemble_is_told_from_a_single_method() -> None:
    message = "recipe 'patchcore-ensemble' is an ensemble, not a single method; name one of its members here"
    with pytest.raises(pp.OptionError, match=message):
        pp.Detector.from_recipe("patchcore-ensemble")
    with pytest.raises(pp.OptionError) as caught:
        pp.Ensemble.from_recipe("patchcore")
    assert str(caught.value) == "recipe 'patchcore' is a single method, not an ensemble; use Detector.from_recipe"
    assert isinstance(pp.model_of(recipe(member(FINE)), device="cpu"), pp.Ensemble)
    assert isinstance(pp.model_of(recipe(member(FINE)).members[0], device="cpu"), pp.Detector)


def test_members_are_found_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    own = '[backbone]\nname = "resnet18"\n[aggregator]\nname = "average-pool"\n[sampler]\nname = "all"\n'
    (tmp_path / "own" / "one.toml").write_text(own + '[scorer]\nname = "knn"\n', encoding="utf-8")
    text = 'members = ["one.toml", { recipe = "one.toml", name = "two", sampler = "random" }]\n'
    (tmp_path / "own" / "many.toml").write_text(text, encoding="utf-8")
    found = pp.load_recipe(str(tmp_path / "own" / "many.toml"))
    assert isinstance(found, pp.EnsembleRecipe)
    assert found.name == "many"
    assert [(each.name, each.sampler.name) for each in found.members] == [("one", "all"), ("two", "random")]


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
        "member 1 (patchcore): gives good photos scores below 0 (-2); an ensemble averages scores that start at 0, "
        "such as distances: take another scorer, or leave this member out"
    )


# The command line

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


def patchcore(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["patchcore", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_command_line_takes_an_ensemble_where_it_takes_a_method(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = tmp_path / "mine.toml", tmp_path / "m.safetensors"
    mine.write_text(TOML, encoding="utf-8")
    options = ["--recipe", mine, "--set", "0.sampler.ratio=0.05", "--device", "cpu"]
    code, said, progress = patchcore(capsys, "fit", dataset, "--out", out, *options)
    assert code == 0
    assert "\nmember 0   lite0\nbank       32 of 640 patches, covering radius " in said
    assert "\nmember 1   lite1\nbank       7 of 640 patches, " in said
    assert "for --set 0.sampler.radius=..." in said
    assert "member 0 (lite0): 10 photos make 640 patches of 312 values" in progress

    code, said, _ = patchcore(capsys, "predict", out, dataset / "test", "--out", tmp_path / "results", "--json")
    model = pp.load_model(out, device="cpu")
    paths = sorted((dataset / "test").rglob("*.png"))
    expected = {str(found.path): found.score for found in model.predict(paths)}
    assert code == 0
    records = json.loads(said)["results"]
    assert {each["path"]: each["score"] for each in records} == expected
    assert all((tmp_path / "results" / each["map"]).is_file() for each in records)
    assert {each["threshold"] for each in records} == {model.threshold}

    code, said, _ = patchcore(capsys, "evaluate", dataset, "--out", tmp_path / "report", *options, "--json")
    found = json.loads(said)
    assert code == 0
    assert found["categories"]["washer"]["image_auroc"] == 1
    assert found["categories"]["washer"]["bank_rows"] == 39
    assert [each["name"] for each in found["recipe"]["members"]] == ["lite0", "lite1"]
    assert "efficientnet-lite1" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_what_a_fit_says_as_json(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    command = ["fit", dataset, "--out", tmp_path / "m", "--recipe", tmp_path / "mine.toml", "--device", "cpu", "--json"]
    code, said, _ = patchcore(capsys, *command)
    summary = json.loads(said)
    assert code == 0
    assert [(each["name"], each["bank_rows"], each["patches_seen"]) for each in summary["members"]] == [
        ("lite0", 64, 640),
        ("lite1", 7, 640),
    ]
    assert all(each["covering_radius"] > 0 for each in summary["members"])
    assert "bank_rows" not in summary


def test_a_recipe_is_shown_as_it_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mine.toml", "again.toml"):
        (tmp_path / name).write_text(TOML, encoding="utf-8")
    code, said, _ = patchcore(capsys, "recipes", "show", tmp_path / "mine.toml")
    (tmp_path / "again.toml").write_text(said, encoding="utf-8")
    first, second = (
        pp.load_recipe(str(tmp_path / name)).resolved(pp.Host(), 0) for name in ("mine.toml", "again.toml")
    )
    assert code == 0
    assert {**first.to_dict(), "name": "", "summary": ""} == {**second.to_dict(), "name": "", "summary": ""}


def test_one_backbone_is_exported_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = patchcore(capsys, "export-backbone", "--out", tmp_path / "x.onnx", "--recipe", "patchcore-ensemble")
    assert ended == (
        1,
        "",
        "patchcore: recipe 'patchcore-ensemble' is an ensemble; export one backbone at a time: --backbone NAME, "
        "no --recipe\n",
    )


def test_a_member_that_there_is_not(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fit", dataset, "--out", tmp_path / "m", "--recipe", "patchcore-ensemble", "--set", "3.sampler.ratio=1"]
    assert patchcore(capsys, *command) == (
        1,
        "",
        "patchcore: unknown part '3.sampler' of an ensemble; a part of one member is its number, from 0 to 2, and a "
        "role, such as 0.sampler\n",
    )
