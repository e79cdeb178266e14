"""The detector as a whole, on small drawn photos."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import patchcore_plugin as pp
from patchcore_plugin import memory
from patchcore_plugin.calibration import fit_order, folds
from patchcore_plugin.features import PatchBuffer
from patchcore_plugin.images import write_png
from patchcore_plugin.roles import Patches

Photo = NDArray[np.uint8]


def draw(seed: int, *, defect: bool = False, shape: tuple[int, int] = (96, 128)) -> Photo:
    """Return a grey plate with stripes; the defect is a bright blob at three quarters of width and height."""
    rng = np.random.default_rng(seed)
    height, width = shape
    photo = np.full((height, width, 3), 120.0)
    photo[:, :: max(4, width // 16)] += 40
    photo += rng.normal(0, 4, photo.shape)
    if defect:
        centre = (3 * width // 4, 3 * height // 4)
        cv2.circle(photo, centre, height // 10, (240.0, 30.0, 30.0), -1, cv2.LINE_AA)
    drawn: Photo = np.clip(photo, 0, 255).astype(np.uint8)
    return drawn


def make(**changes: Any) -> pp.Detector:
    changes = {
        "backbone": "efficientnet-lite0",
        "preprocessing": {"size": [64, 64]},
        "sampler": {"ratio": 0.2},
        "device": "cpu",
        **changes,
    }
    return pp.Detector.from_recipe("patchcore", **changes)


@pytest.fixture(scope="module")
def fitted() -> pp.Detector:
    return make().fit([draw(seed) for seed in range(12)])


def test_finds_the_defect_where_it_is(fitted: pp.Detector) -> None:
    good, bad = fitted.predict([draw(100), draw(101, defect=True)])
    assert bad.score > good.score
    assert bad.is_anomalous is True
    assert bad.anomaly_map is not None
    y, x = np.unravel_index(int(bad.anomaly_map.argmax()), bad.anomaly_map.shape)
    assert abs(x - 96) < 14
    assert abs(y - 72) < 14
    assert bad.nearest is not None
    assert abs(bad.nearest.peak_x - 96) < 14
    assert abs(bad.nearest.peak_y - 72) < 14


@pytest.mark.parametrize("shape", [(96, 128), (33, 200), (301, 64), (8, 8), (64, 64)])
def test_maps_have_the_photos_own_size(fitted: pp.Detector, shape: tuple[int, int]) -> None:
    (found,) = fitted.predict([draw(7, shape=shape)])
    assert found.anomaly_map is not None
    assert found.anomaly_map.shape == shape
    assert found.anomaly_map.dtype == np.float32
    assert np.isfinite(found.anomaly_map).all()


def test_paths_and_arrays_give_the_same(fitted: pp.Detector, tmp_path: Path) -> None:
    photo = draw(50, defect=True)
    write_png(tmp_path / "photo.png", photo)
    (from_array,) = fitted.predict([photo])
    (from_path,) = fitted.predict([tmp_path / "photo.png"])
    assert from_path.score == from_array.score
    assert from_path.path == str(tmp_path / "photo.png")
    assert from_array.path is None


def test_each_photo_is_judged_for_the_threshold_by_a_bank_of_the_others() -> None:
    photos = [draw(seed) for seed in range(12)]
    detector = make(sampler="all").fit(photos)
    read = np.concatenate(fit_order(12, 0))
    scores, peaks = [], []
    for fold in folds(12, 0):
        numbers = read[fold].tolist()
        assert len(numbers) in (2, 3)
        others = make(sampler="all").fit([photo for number, photo in enumerate(photos) if number not in numbers])
        for found in others.predict([photos[number] for number in numbers]):
            assert found.anomaly_map is not None
            scores.append(found.score)
            peaks.append(found.anomaly_map.max())
    calibration = detector.calibration
    assert calibration.scores == pytest.approx(sorted(scores), rel=1e-4)
    assert calibration.peaks == pytest.approx(sorted(peaks), rel=1e-4)
    assert (calibration.threshold, calibration.map_threshold) == (calibration.scores[-1], calibration.peaks[-1])
    assert calibration.source == "scores of 12 good photos, each judged by a bank of the others (5 folds)"
    found = detector.predict([draw(101, defect=True)])[0]
    assert (found.p_value, found.is_anomalous) == (1 / 13, True)
    assert [region.x <= 96 < region.x + region.width for region in found.regions][:1] == [True]


def test_the_threshold_is_for_the_rate_that_is_asked_for() -> None:
    photos = [draw(seed) for seed in range(12)]
    detector = make().fit(photos, false_alarm_rate=0.25)
    assert detector.threshold == detector.calibration.scores[-3]
    assert detector.calibration.false_alarm_rate == 3 / 13
    with pytest.raises(pp.PatchcoreError) as caught:
        # No photo is read for it.
        make().fit(["nowhere.png"] * 12, false_alarm_rate=0.05)
    assert str(caught.value) == (
        "a false-alarm rate of 0.05 needs at least 19 good photos that the bank does not know, and there are 12, "
        "which can promise 0.077 at best; give more good photos, or ask for a higher rate"
    )


def test_one_photo_has_no_threshold() -> None:
    detector = make().fit([draw(0)])
    (found,) = detector.predict([draw(1)])
    assert detector.threshold is None
    assert found.is_anomalous is None
    assert detector.calibration.source == "none: too few photos to judge one by the others"


def test_origin_says_where_each_bank_row_comes_from(tmp_path: Path) -> None:
    photos = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(photos):
        write_png(path, draw(seed))
    detector = make(sampler="all").fit(photos)
    origin = detector.bank.origin
    assert detector.bank.seen == len(origin) == 3 * 8 * 8
    assert origin[65].tolist() == [1, 0, 1]
    found = detector.predict([photos[2]])[0]
    assert found.nearest is not None
    assert found.nearest.photo == str(photos[2])
    assert (found.nearest.x, found.nearest.y) == (found.nearest.peak_x, found.nearest.peak_y)
    assert found.score < 0.1


def test_one_seed_gives_one_bank() -> None:
    photos = [draw(seed) for seed in range(4)]
    torch.manual_seed(1)
    first = make(seed=3).fit(photos)
    torch.manual_seed(2)
    second, other = make(seed=3).fit(photos), make(seed=4).fit(photos)
    assert torch.equal(first.bank.vectors, second.bank.vectors)
    assert torch.equal(first.bank.origin, second.bank.origin)
    assert first.threshold == second.threshold
    assert not torch.equal(first.bank.vectors, other.bank.vectors)


def test_global_state_is_left_alone() -> None:
    torch.manual_seed(5)
    state, threads, numpy_state = torch.get_rng_state(), torch.get_num_threads(), np.random.get_state(legacy=False)  # noqa: NPY002
    make().fit([draw(0), draw(1)]).predict([draw(2)])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    now = np.random.get_state(legacy=False)  # noqa: NPY002
    assert np.array_equal(now["state"]["key"], numpy_state["state"]["key"])
    assert now["state"]["pos"] == numpy_state["state"]["pos"]


@pytest.mark.parametrize("sampler", [{"ratio": 0.1}, {"ratio": 0.1, "projection_dim": 8}, {"name": "random"}])
def test_covering_radius_is_the_farthest_patch(sampler: dict[str, Any]) -> None:
    photos = [draw(seed) for seed in range(3)]
    detector, everything = make(sampler=sampler).fit(photos), make(sampler="all").fit(photos)
    distance = torch.cdist(everything.bank.vectors.double(), detector.bank.vectors.double())
    assert detector.covering_radius == pytest.approx(float(distance.amin(dim=1).max()), rel=1e-5)


def test_radius_curve_falls_to_the_covering_radius(fitted: pp.Detector) -> None:
    rows, radii = zip(*fitted.radius_curve, strict=True)
    assert rows[-1] == len(fitted.bank.vectors)
    assert len(rows) > 5
    assert list(radii) == sorted(radii, reverse=True)
    assert radii[-1] == fitted.covering_radius
    smaller = make(sampler={"ratio": 0.2, "radius": radii[-3]}).fit([draw(seed) for seed in range(12)])
    assert len(smaller.bank.vectors) <= rows[-3]
    assert smaller.covering_radius is not None
    assert smaller.covering_radius <= radii[-3]


def test_crop_leaves_the_border_uninspected() -> None:
    detector = make(preprocessing={"size": [80, 80], "keep_aspect": True, "crop": [64, 64]})
    detector.fit([draw(seed) for seed in range(3)])
    (found,) = detector.predict([draw(9, shape=(160, 240))])
    assert found.anomaly_map is not None
    assert found.anomaly_map.shape == (160, 240)
    inside = np.zeros((160, 240), dtype=bool)
    inside[16:144, 56:184] = True
    assert (found.anomaly_map[~inside] == 0).all()
    assert (found.anomaly_map[inside] > 0).mean() > 0.99


def test_unreadable_photos_stop_or_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    photos: list[Any] = [draw(0), tmp_path / "broken.png", draw(1)]
    with pytest.raises(pp.ImageError, match=r"broken\.png"):
        make().fit(photos)
    detector = make().fit(photos, on_error="skip")
    assert next(str(error) for error in detector.skipped).startswith(str(tmp_path / "broken.png"))
    found = list(detector.predict_each(photos, on_error="skip"))
    assert [type(each) for each in found] == [pp.Prediction, pp.ImageError, pp.Prediction]
    with pytest.raises(pp.ImageError, match="no photo to fit on"):
        make().fit([tmp_path / "broken.png"], on_error="skip")


def test_bf16_stays_near_fp32(fitted: pp.Detector, tmp_path: Path) -> None:
    photos = [draw(seed, defect=seed % 2 == 0) for seed in range(30, 36)]
    fitted.save(tmp_path / "part.safetensors")
    coarse = pp.Detector.load(tmp_path / "part.safetensors", device="cpu", precision="bf16")
    wanted = [found.score for found in fitted.predict(photos)]
    got = [found.score for found in coarse.predict(photos)]
    assert got == pytest.approx(wanted, rel=0.1, abs=2)
    assert got != wanted
    coarse.save(tmp_path / "coarse.safetensors")
    assert pp.Detector.load(tmp_path / "coarse.safetensors").precision == "bf16"
    with pytest.raises(pp.OptionError, match="precision must be fp32 or bf16, got 'fp16'"):
        make(precision="fp16")


def test_too_little_memory_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 1_000_000)
    with pytest.raises(pp.PatchcoreError) as caught:
        make().fit([draw(seed) for seed in range(12)])
    assert str(caught.value) == (
        "12 photos make 768 patches of 312 values: about 0.0 GB are needed and 0.0 GB are free; take fewer photos, "
        "raise aggregator.stride, lower preprocessing.size, or choose a backbone with fewer channels"
    )
    monkeypatch.setattr(memory, "available", lambda device: None)
    make().fit([draw(0), draw(1)])


def test_what_it_will_take_is_told_after_the_first_photos() -> None:
    said: list[str] = []
    make().fit([draw(seed) for seed in range(20)], announce=said.append)
    assert len(said) == 1
    assert re.fullmatch(
        r"20 photos make 1,280 patches of 312 values: at most 0\.0037 GB of memory; reading the rest takes about \d+ s",
        said[0],
    )


def test_memory_that_can_be_had_is_known() -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("Linux says how much there is")
    free = memory.available(torch.device("cpu"))
    assert free is not None
    assert 1e8 < free < 1e15


def test_not_fitted() -> None:
    with pytest.raises(pp.TensorError, match="the detector is not fitted; call fit or load first"):
        make().predict([draw(0)])


def test_batches_do_not_change_scores(fitted: pp.Detector) -> None:
    photos = [draw(seed, defect=seed % 2 == 0) for seed in range(10)]
    together = [found.score for found in fitted.predict(photos)]
    alone = [fitted.predict([photo])[0].score for photo in photos]
    assert together == pytest.approx(alone, rel=1e-4)


LOAD = """
import sys
import numpy as np
import patchcore_plugin as pp
from patchcore_plugin import memory

photos = list(np.load(sys.argv[2]))
for found in pp.Detector.load(sys.argv[1], device="cpu").predict(photos):
    print(found.score.hex(), found.anomaly_map.tobytes().hex()[:4000], found.threshold.hex(), found.nearest)
"""


def test_another_process_gives_the_same_bits(fitted: pp.Detector, tmp_path: Path) -> None:
    photos = [draw(seed, defect=seed % 2 == 0) for seed in range(200, 204)]
    fitted.save(tmp_path / "part.safetensors")
    np.save(tmp_path / "photos.npy", np.stack(photos))
    files = [str(tmp_path / name) for name in ("part.safetensors", "photos.npy")]
    done = subprocess.run([sys.executable, "-c", LOAD, *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    wanted = []
    for found in fitted.predict(photos):
        assert found.anomaly_map is not None
        assert found.threshold is not None
        bits = found.anomaly_map.tobytes().hex()[:4000]
        wanted.append(f"{found.score.hex()} {bits} {found.threshold.hex()} {found.nearest}")
    assert done.stdout.splitlines() == wanted


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


def test_photos_are_asked_for_as_they_are_needed(fitted: pp.Detector) -> None:
    asked = 0

    def endless() -> Iterator[Photo]:
        nonlocal asked
        while True:
            asked += 1
            yield draw(asked)

    found = fitted.predict_each(endless())
    first = [next(found) for _ in range(3)]
    assert [isinstance(each, pp.Prediction) for each in first] == [True] * 3
    assert asked < 40


def test_errors_come_at_their_place(fitted: pp.Detector, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    photos: list[Any] = [*(draw(seed) for seed in range(9)), tmp_path / "broken.png", draw(10)]
    found = fitted.predict_each(photos)
    assert all(isinstance(next(found), pp.Prediction) for _ in range(9))
    with pytest.raises(pp.ImageError, match=r"broken\.png"):
        next(found)


def test_photos_change_places_with_their_descriptors() -> None:
    buffer = PatchBuffer(3)
    grid = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 2, 4)
    buffer.add(Patches(grid, image=torch.arange(3.0).view(3, 1)))
    every = torch.arange(12)
    buffer.exchange([0], [2])
    bank = buffer.bank(every)
    assert bank.vectors[::4, 0].tolist() == [2.0, 1.0, 0.0]
    assert bank.images is not None
    assert bank.images.flatten().tolist() == [2.0, 1.0, 0.0]
    assert buffer.patches(2).grid.unique().tolist() == [0.0]
    buffer.exchange([0], [2])
    assert buffer.bank(every).vectors[::4, 0].tolist() == [0.0, 1.0, 2.0]
