"""More images for a fitted model: the bank, its covering radius, the calibration, and what is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patchcore_plugin.models.fitting.reducing import reduced
from patchcore_plugin.models.fitting.updating import extended
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.models.calibration import Calibration, HeldOutScore
from tests.models import tiny

OLD = [tiny.draw(number) for number in range(12)]
NEW = [tiny.draw(number) for number in range(100, 105)]
PATCHES = 64
HOST = pp.Host(entry_points=False)


def patches(detector: pp.Detector, images: list[Any]) -> Tensor:
    """Return the patches of images, [N, D]."""
    from patchcore_plugin.models.preprocessing import prepare

    inputs = torch.stack([prepare(image, detector.recipe.preprocessing) for image in images])
    return detector._parts.patches(inputs).grid.flatten(0, 2)


def radius(points: Tensor, bank: Tensor) -> float:
    return float(distances(points, bank).max())


def distances(points: Tensor, bank: Tensor) -> Tensor:
    """Return how far each point is from its nearest row."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points.double(), bank.double(), compute_mode=exact).amin(dim=1)


def scores(model: pp.Detector | pp.Detector, images: list[Any]) -> list[float]:
    return [found.score for found in model.predict(images)]


@pytest.fixture(scope="module")
def updated() -> pp.Detector:
    return tiny.detector().fit(OLD).update(NEW)


# The bank


def test_the_bank_stands_for_all_images(updated: pp.Detector) -> None:
    bank = updated.bank
    assert bank.seen == 17 * PATCHES
    assert len(bank.vectors) == math.ceil(0.1 * 17 * PATCHES)
    before = tiny.detector().fit(OLD)
    assert torch.equal(bank.vectors[: before.bank_rows], before.bank.vectors)
    assert torch.equal(bank.origin[: before.bank_rows], before.bank.origin)
    added = bank.origin[before.bank_rows :]
    assert set(added[:, 0].tolist()) <= set(range(12, 17))
    # What a row says of where it comes from is true: the images of a fit, or an update, are numbered as they were read.
    order = np.concatenate(_order(5))
    for row, (image, y, x) in zip(bank.vectors[before.bank_rows :], added.tolist(), strict=True):
        assert torch.equal(row, patches(updated, [NEW[order[image - 12]]]).view(8, 8, -1)[y, x])


def _order(count: int) -> tuple[Any, Any]:
    from patchcore_plugin.models.calibration import fit_order

    return fit_order(count, 0)


def test_its_covering_radius_is_bounded_and_close_to_a_refit(updated: pp.Detector) -> None:
    everything = patches(updated, OLD + NEW)
    true = radius(everything, updated.bank.vectors)
    assert updated.covering_radius is not None
    assert true <= updated.covering_radius * (1 + 1e-6)
    assert not updated.radius_is_exact
    refit = tiny.detector().fit(OLD + NEW)
    assert refit.radius_is_exact
    full = radius(everything, refit.bank.vectors)
    assert refit.covering_radius == pytest.approx(full, rel=1e-6)
    assert updated.covering_radius < 1.5 * full


def test_many_updates_keep_the_bound(updated: pp.Detector) -> None:
    detector = tiny.detector().fit(OLD)
    images = list(OLD)
    for number in range(4):
        more = [tiny.draw(200 + 10 * number + each) for each in range(3)]
        detector.update(more)
        images += more
        true = radius(patches(detector, images), detector.bank.vectors)
        assert detector.covering_radius is not None
        assert true <= detector.covering_radius * (1 + 1e-6) < 1.5 * true * (1 + 1e-6)
    assert detector.bank.seen == 24 * PATCHES


@pytest.mark.parametrize(
    ("sampler", "stay"),
    [
        ({"name": "greedy-coreset", "count": 60}, False),
        ({"name": "random", "count": 60}, False),
        ({"name": "random"}, True),
        ({"name": "greedy-coreset", "projection_dim": 4}, True),
    ],
)
def test_the_bound_holds_whether_rows_leave_or_not(sampler: dict[str, Any], stay: bool) -> None:
    detector = tiny.detector(sampler=sampler).fit(OLD)
    before = detector.bank.vectors
    detector.update(NEW)
    assert bool((distances(before, detector.bank.vectors) == 0).all()) is stay
    assert detector.covering_radius is not None
    assert radius(patches(detector, OLD + NEW), detector.bank.vectors) <= detector.covering_radius * (1 + 1e-6)


def test_a_union_of_banks_is_bounded_by_what_moves() -> None:
    """One old row that stands for patches around it leaves; they are near another one, by the triangle inequality."""
    parts = tiny.detector(sampler={"name": "greedy-coreset", "count": 2})._parts
    union = pp.MemoryBank(torch.tensor([[0.0], [1.0], [10.0]]), torch.zeros(3, 3, dtype=torch.int64), seen=40)
    found = reduced(parts, parts.sampler(), union, 2, radius=0.5, limit=2)
    assert len(found.chosen) == 2
    assert found.radius == (1.0 if set(found.chosen.tolist()) == {0, 1} else 1.5) or found.radius == 9.0
    three = replace(union, seen=300)
    ratio = tiny.detector(sampler={"name": "greedy-coreset", "ratio": 0.01})._parts
    kept = reduced(ratio, ratio.sampler(), three, 2, radius=0.5)
    assert kept.chosen.tolist() == [0, 1, 2]
    assert kept.radius == 0.5


def test_random_rows_stand_for_all_images_alike() -> None:
    """Of 400 patches in four parts that come one after the other, each stays as often."""
    counts = torch.zeros(4)
    for seed in range(300):
        sampler: Any = HOST.create("sampler", "random", ratio=0.1, seed=seed)
        kept = torch.zeros(0, 2)
        for part in range(4):
            new = torch.stack([torch.full((100,), float(part)), torch.arange(100.0)], dim=1)
            union = torch.cat([kept, new])
            sampler.reduction = pp.Reduction(rows=len(kept), seen=100 * (part + 1))
            kept = union[sampler(union)]
            assert len(kept) == 10 * (part + 1)
            assert len(kept.unique(dim=0)) == len(kept)
        counts += kept[:, 0].long().bincount(minlength=4)
    assert counts.div(300).tolist() == pytest.approx([10.0] * 4, abs=0.5)


# Methods that keep all, or no patches


def test_a_streaming_scorer_goes_on() -> None:
    changes: dict[str, Any] = {"aggregator": {"channels": 8}}
    both = tiny.detector("padim", **changes).fit(OLD + NEW)
    more = tiny.detector("padim", **changes).fit(OLD)
    expected = scores(more, NEW)
    known = more.calibration.scores
    more.update(NEW)
    assert scores(more, NEW) == pytest.approx(scores(both, NEW), rel=1e-3)
    assert more.bank.seen == 17 * PATCHES
    assert more.covering_radius is None
    assert more.calibration.scores == pytest.approx(sorted([*known, *expected]), rel=1e-5)


@pytest.mark.parametrize("recipe", ["patchcore", "dn2"])
def test_where_all_is_kept_an_update_is_a_fit_on_all(recipe: str) -> None:
    changes: dict[str, Any] = {"sampler": "all"}
    both = tiny.detector(recipe, **changes).fit(OLD + NEW)
    more = tiny.detector(recipe, **changes).fit(OLD).update(NEW)
    test = [tiny.draw(300), tiny.draw(301, shift=40)]
    assert scores(more, test) == pytest.approx(scores(both, test), rel=1e-6)
    assert more.bank_rows == both.bank_rows
    assert more.covering_radius == 0.0
    assert more.radius_is_exact


def test_descriptors_of_images_are_concatenated() -> None:
    changes: dict[str, Any] = {"scorer": {"images": 4}, "backbone": {"name": "tiny", "levels": 2}}
    both, more = (tiny.detector("spade", **changes).fit(images) for images in (OLD + NEW, OLD))
    more.update(NEW)
    assert more.bank.descriptors is not None
    assert len(more.bank.descriptors) == 17
    assert scores(more, NEW[:2]) == pytest.approx(scores(both, NEW[:2]), rel=1e-5)


def test_members_learn_for_themselves() -> None:
    members = [
        {"recipe": "patchcore", "backbone": "tiny", "sampler": {"ratio": 0.1}},
        {"recipe": "padim", "backbone": "tiny", "aggregator": {"channels": 8}},
    ]
    recipe = pp.Recipe.from_dict({"name": "two", "preprocessing": {"size": [32, 32]}, "members": members})
    ensemble = pp.Detector(recipe, device="cpu", host=tiny.host()).fit(OLD)
    units, known, expected = ensemble.units, ensemble.calibration.scores, scores(ensemble, NEW)
    ensemble.update(NEW)
    assert ensemble.units == units
    assert ensemble.members[0].bank_rows == math.ceil(0.1 * 17 * PATCHES)
    assert ensemble.members[1].bank.seen == 17 * PATCHES
    assert ensemble.calibration.scores == pytest.approx(sorted([*known, *expected]), rel=1e-5)
    assert [len(member._state.images) for member in ensemble.members] == [17, 17]
    alone = tiny.detector().fit(OLD).update(NEW)
    assert torch.equal(ensemble.members[0].bank.vectors, alone.bank.vectors)


# The calibration


def test_images_are_judged_before_they_are_learned() -> None:
    detector = tiny.detector().fit(OLD)
    known, expected = detector.calibration.scores, scores(detector, NEW)
    peaks = [float(found.anomaly_map.max()) for found in detector.predict(NEW) if found.anomaly_map is not None]
    scale, all_peaks = detector.map_scale, detector.calibration.peaks
    detector.update(NEW)
    assert detector.calibration.scores == pytest.approx(sorted([*known, *expected]), rel=1e-6)
    assert detector.calibration.peaks == pytest.approx(sorted([*all_peaks, *peaks]), rel=1e-6)
    assert detector.threshold == max(detector.calibration.scores)
    assert detector.map_scale == scale
    assert detector.calibration.source == "scores of 17 good images, each judged by a bank that did not know it"


def test_a_single_image_will_do() -> None:
    detector = tiny.detector().fit(OLD)
    (expected,) = scores(detector, NEW[:1])
    detector.update(NEW[:1])
    assert any(score == pytest.approx(expected, rel=1e-6) for score in detector.calibration.scores)
    assert len(detector.calibration.scores) == 13


def calibration(*scores: float, rate: float | None = None) -> Calibration:
    return Calibration.from_held_out([HeldOutScore(score) for score in scores], "drawn", rate)


def test_the_threshold_is_chosen_as_it_was() -> None:
    more = [HeldOutScore(6.0), HeldOutScore(0.5), HeldOutScore(4.5), HeldOutScore(7.0)]
    old = calibration(1, 2, 3, 4, 5)
    assert extended(old.at_rate(0.4), more).threshold == 4.5  # the 4th of 9, floor(0.4 x 10)
    assert extended(old, more).threshold == 7.0
    assert extended(old.at_threshold(2.5), more).threshold == 2.5
    defective = old.with_defective([5.5, 8.0, 9.0])
    assert defective.at_best_f1().threshold == 5.25
    assert extended(defective.at_best_f1(), more).threshold == 7.5
    cheap = extended(defective.at_lowest_cost(10.0), more)
    assert cheap.threshold == 5.25
    assert (cheap.criterion, cheap.cost) == ("cost", 10.0)
    none = extended(Calibration.without_threshold("too few"), more)
    assert none.scores == (0.5, 4.5, 6.0, 7.0)
    assert extended(old, []) is old


# Images, files, errors


def test_images_in_the_model_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = tiny.write(tmp_path / "images", 8)
    detector = tiny.detector().fit(paths[:6])
    monkeypatch.chdir(tmp_path)
    detector.update([Path("images") / path.name for path in paths])
    assert detector.bank.seen == 8 * PATCHES
    assert len(detector.training_images) == 8
    with pytest.raises(pp.DatasetError) as caught:
        detector.update(paths)
    assert str(caught.value) == "all 8 images are in the model already; give images that it was not fitted on"
    with pytest.raises(pp.DatasetError, match="no images to update the model with; give at least one"):
        detector.update([])


def test_an_update_that_fails_changes_nothing(tmp_path: Path) -> None:
    paths = tiny.write(tmp_path, 9)
    paths[8].write_text("no image")
    for recipe, changes in (("patchcore", {}), ("padim", {"aggregator": {"channels": 8}})):
        detector = tiny.detector(recipe, **changes).fit(OLD)
        detector.save(tmp_path / "before.safetensors")
        with pytest.raises(pp.ImageError, match=re.escape("008.png")):
            detector.update(paths)
        detector.save(tmp_path / "after.safetensors")
        assert (tmp_path / "after.safetensors").read_bytes() == (tmp_path / "before.safetensors").read_bytes()
        detector.update(paths, on_error="skip")
        assert [error.path for error in detector.skipped] == [str(paths[8])]
        assert len(detector.training_images) == 8
    with pytest.raises(pp.ImageError, match="no image to learn from; give at least one readable image"):
        tiny.detector().fit(OLD).update([paths[8]], on_error="skip")


def test_an_updated_model_is_read_again(updated: pp.Detector, tmp_path: Path) -> None:
    updated.save(tmp_path / "m.safetensors")
    again = pp.Detector.load(tmp_path / "m.safetensors", device="cpu", host=tiny.host())
    assert scores(again, NEW) == scores(updated, NEW)
    assert again.covering_radius == updated.covering_radius
    assert not again.radius_is_exact
    assert again.update([tiny.draw(400)]).bank.seen == 18 * PATCHES


def test_thumbnails_are_kept_of_all_images_or_of_none() -> None:
    detector = tiny.detector().fit(OLD, keep_thumbnails=True).update(NEW)
    assert sorted(detector.thumbnails) == list(range(17))
    assert not tiny.detector().fit(OLD).update(NEW).thumbnails


class _Every:
    """A sampler that knows nothing of reductions."""

    @staticmethod
    @pp.hookimpl
    def patchcore_samplers() -> list[pp.SamplerSpec]:
        def create(config: Any) -> Any:
            return lambda vectors: torch.arange(0, len(vectors), 10)

        return [pp.SamplerSpec(name="every", config=tiny.Config, create=create, summary="every tenth")]


def test_a_sampler_that_cannot_reduce_is_refused() -> None:
    host = pp.Host(entry_points=False, extra={"tiny": tiny.Module(), "every": _Every()})
    detector = pp.Detector(tiny.recipe(sampler="every"), device="cpu", host=host).fit(OLD)
    with pytest.raises(pp.OptionError) as caught:
        detector.update(NEW)
    assert str(caught.value) == (
        "sampler 'every' cannot choose from a bank and new patches (it has no attribute 'reduction'), so the model "
        "cannot get more images; fit on all images at once, or take --sampler greedy-coreset"
    )


def test_more_rows_than_allowed_are_refused() -> None:
    parts = tiny.detector()._parts
    sampler: Any = HOST.create("sampler", "all")
    with pytest.raises(pp.TensorError, match="sampler 'greedy-coreset': expected at most 3 indices, got 9"):
        parts.select(sampler, torch.randn(9, 2), pp.Reduction(rows=0, seen=9, limit=3))
