"""What a detector learns: its bank, its threshold, how well the bank covers the images; and what that takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patchcore_plugin.models.fitting.inputs import PatchBuffer

import patchcore_plugin as pp
from patchcore_plugin.data.images import write_png
from patchcore_plugin.kernels import device
from patchcore_plugin.models.calibration import fit_order, folds
from patchcore_plugin.plugins.protocols import Patches
from tests.evaluation.plates import draw, make


def test_each_image_is_judged_for_the_threshold_by_a_bank_of_the_others() -> None:
    images = [draw(seed) for seed in range(12)]
    detector = make(sampler="all").fit(images)
    read = np.concatenate(fit_order(12, 0))
    scores, peaks = [], []
    for fold in folds(12, 0):
        numbers = read[fold].tolist()
        assert len(numbers) in (2, 3)
        others = make(sampler="all").fit([image for number, image in enumerate(images) if number not in numbers])
        for found in others.predict([images[number] for number in numbers]):
            assert found.anomaly_map is not None
            scores.append(found.score)
            peaks.append(found.anomaly_map.max())
    calibration = detector.calibration
    assert calibration.scores == pytest.approx(sorted(scores), rel=1e-4)
    assert calibration.peaks == pytest.approx(sorted(peaks), rel=1e-4)
    assert (calibration.threshold, calibration.map_threshold) == (calibration.scores[-1], calibration.peaks[-1])
    assert calibration.source == "scores of 12 good images, each judged by a bank of the others (5 folds)"
    found = detector.predict([draw(101, defect=True)])[0]
    assert (found.p_value, found.is_anomalous) == (1 / 13, True)
    assert [region.x <= 96 < region.x + region.width for region in found.regions][:1] == [True]


def test_the_threshold_is_for_the_rate_that_is_asked_for() -> None:
    images = [draw(seed) for seed in range(12)]
    detector = make().fit(images, false_alarm_rate=0.25)
    assert detector.threshold == detector.calibration.scores[-3]
    assert detector.calibration.false_alarm_rate == 3 / 13
    with pytest.raises(pp.PatchcoreError) as caught:
        # No image is read for it.
        make().fit(["nowhere.png"] * 12, false_alarm_rate=0.05)
    assert str(caught.value) == (
        "a false-alarm rate of 0.05 needs at least 19 good images that the bank does not know, and there are 12, "
        "which can promise 0.077 at best; give more good images, or ask for a higher rate"
    )


def test_one_image_has_no_threshold() -> None:
    detector = make().fit([draw(0)])
    (found,) = detector.predict([draw(1)])
    assert detector.threshold is None
    assert found.is_anomalous is None
    assert detector.calibration.source == "none: too few images to judge one by the others"
    assert detector.covering_radius
    assert detector.map_scale == (0.0, 2 * detector.covering_radius)


def test_origin_says_where_each_bank_row_comes_from(tmp_path: Path) -> None:
    images = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(images):
        write_png(path, draw(seed))
    detector = make(sampler="all").fit(images)
    origin = detector.bank.origin
    assert detector.bank.seen == len(origin) == 3 * 8 * 8
    assert origin[65].tolist() == [1, 0, 1]
    found = detector.predict([images[2]])[0]
    assert found.nearest is not None
    assert found.nearest.image == str(images[2])
    assert (found.nearest.x, found.nearest.y) == (found.nearest.peak_x, found.nearest.peak_y)
    assert found.score < 0.1


def test_one_seed_gives_one_bank() -> None:
    images = [draw(seed) for seed in range(4)]
    torch.manual_seed(1)
    first = make(seed=3).fit(images)
    torch.manual_seed(2)
    second, other = make(seed=3).fit(images), make(seed=4).fit(images)
    assert torch.equal(first.bank.vectors, second.bank.vectors)
    assert torch.equal(first.bank.origin, second.bank.origin)
    assert first.threshold == second.threshold
    assert not torch.equal(first.bank.vectors, other.bank.vectors)


@pytest.mark.parametrize("sampler", [{"ratio": 0.1}, {"ratio": 0.1, "projection_dim": 8}, {"name": "random"}])
def test_covering_radius_is_the_farthest_patch(sampler: dict[str, Any]) -> None:
    images = [draw(seed) for seed in range(3)]
    detector, everything = make(sampler=sampler).fit(images), make(sampler="all").fit(images)
    distance = torch.cdist(everything.bank.vectors.double(), detector.bank.vectors.double())
    assert detector.covering_radius == pytest.approx(float(distance.amin(dim=1).max()), rel=1e-5)


def test_radius_curve_falls_to_the_covering_radius() -> None:
    images = [draw(seed) for seed in range(12)]
    fitted = make().fit(images)
    rows, radii = zip(*fitted.radius_curve, strict=True)
    assert rows[-1] == len(fitted.bank.vectors)
    assert len(rows) > 5
    assert list(radii) == sorted(radii, reverse=True)
    assert radii[-1] == fitted.covering_radius
    smaller = make(sampler={"ratio": 0.2, "radius": radii[-3]}).fit(images)
    assert len(smaller.bank.vectors) <= rows[-3]
    assert smaller.covering_radius is not None
    assert smaller.covering_radius <= radii[-3]


def test_too_little_memory_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available", lambda device: 1_000_000)
    with pytest.raises(pp.PatchcoreError) as caught:
        make().fit([draw(seed) for seed in range(12)])
    assert str(caught.value) == (
        "12 images make 768 patches of 312 values: about 0.0 GB are needed and 0.0 GB are free; take fewer images, "
        "raise aggregator.stride, lower preprocessing.size, or choose a backbone with fewer channels"
    )
    monkeypatch.setattr(device, "available", lambda device: None)
    make().fit([draw(0), draw(1)])


def test_what_it_will_take_is_told_after_the_first_images() -> None:
    said: list[str] = []
    make().fit([draw(seed) for seed in range(20)], announce=said.append)
    assert len(said) == 1
    assert re.fullmatch(
        r"20 images make 1,280 patches of 312 values: at most 0\.0037 GB of memory; reading the rest takes about \d+ s",
        said[0],
    )


def test_memory_that_can_be_had_is_known() -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("Linux says how much there is")
    free = device.available(torch.device("cpu"))
    assert free is not None
    assert 1e8 < free < 1e15


def test_plugins_that_break_the_contract_are_named() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Config:
        pass

    class Plugin:
        @pp.hookimpl
        def patchcore_samplers(self) -> list[pp.SamplerSpec]:
            def create(config: Any) -> Any:
                return lambda vectors: torch.tensor([len(vectors)])

            def create_floats(config: Any) -> Any:
                return lambda vectors: torch.tensor([0.5])

            return [
                pp.SamplerSpec(name="outside", config=Config, create=create, summary="an index too high"),
                pp.SamplerSpec(name="floats", config=Config, create=create_floats, summary="no indices"),
            ]

    host = pp.Host(extra={"broken": Plugin()})
    with pytest.raises(pp.TensorError, match="sampler 'outside': expected indices below 64, got 64"):
        make(sampler="outside", host=host).fit([draw(0)])
    with pytest.raises(pp.TensorError, match=r"sampler 'floats': expected int64 indices \[M\], M at least 1"):
        make(sampler="floats", host=host).fit([draw(0)])


def test_images_change_places_with_their_descriptors() -> None:
    buffer = PatchBuffer(3)
    grid = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 2, 4)
    buffer.add(Patches(grid, descriptors=torch.arange(3.0).view(3, 1)))
    every = torch.arange(12)
    buffer.exchange([0], [2])
    bank = buffer.bank(every)
    assert bank.vectors[::4, 0].tolist() == [2.0, 1.0, 0.0]
    assert bank.descriptors is not None
    assert bank.descriptors.flatten().tolist() == [2.0, 1.0, 0.0]
    assert buffer.patches(2).grid.unique().tolist() == [0.0]
    buffer.exchange([0], [2])
    assert buffer.bank(every).vectors[::4, 0].tolist() == [0.0, 1.0, 2.0]
