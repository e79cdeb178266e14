"""The detector as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.data.images import write_png
from tests.models import tiny
from tests.models.tiny import draw, map_of, scores

GOOD = [draw(seed) for seed in range(12)]
SMALL: dict[str, Any] = {"backbone": "efficientnet-lite0", "preprocessing": {"size": [64, 64]}, "device": "cpu"}


@pytest.fixture(scope="module")
def fitted_detector() -> pp.Detector:
    return tiny.detector(sampler={"ratio": 0.2}).fit(GOOD)


def test_a_defect_is_found_at_its_place(fitted_detector: pp.Detector) -> None:
    good, bad = fitted_detector.predict([draw(100), draw(101, defect=True)])
    assert (good.is_anomalous, bad.is_anomalous) == (False, True)
    assert bad.p_value == 1 / 13
    y, x = np.unravel_index(int(map_of(bad).argmax()), map_of(bad).shape)
    assert bad.nearest is not None
    for column, row in ((int(x), int(y)), (bad.nearest.peak_x, bad.nearest.peak_y)):
        assert abs(column - 36) < 9
        assert abs(row - 30) < 8
    assert any(region.x <= 36 < region.x + region.width for region in bad.regions)


@pytest.mark.parametrize("shape", [(96, 128), (33, 200), (8, 8), (32, 32)])
def test_maps_have_the_size_of_the_image(fitted_detector: pp.Detector, shape: tuple[int, int]) -> None:
    (prediction,) = fitted_detector.predict([draw(7, shape=shape)])
    assert map_of(prediction).shape == prediction.size == shape
    assert map_of(prediction).dtype == np.float32
    assert np.isfinite(map_of(prediction)).all()


def test_paths_and_arrays_give_the_same_scores(fitted_detector: pp.Detector, tmp_path: Path) -> None:
    image = draw(50, defect=True)
    write_png(tmp_path / "image.png", image)
    from_array, from_path = fitted_detector.predict([image, tmp_path / "image.png"])
    assert from_path.score == from_array.score
    assert (from_path.path, from_array.path) == (str(tmp_path / "image.png"), None)


def test_pixels_are_kept_on_request(fitted_detector: pp.Detector) -> None:
    (prediction,) = fitted_detector.predict_each([GOOD[0]], keep_pixels=True)
    assert isinstance(prediction, pp.Prediction)
    assert np.array_equal(prediction.pixels, GOOD[0])  # type: ignore[arg-type]
    assert fitted_detector.predict([GOOD[0]])[0].pixels is None


def test_global_state_is_left_alone() -> None:
    torch.manual_seed(5)
    state, threads, numpy_state = torch.get_rng_state(), torch.get_num_threads(), np.random.get_state(legacy=False)  # noqa: NPY002
    tiny.detector().fit(GOOD[:3]).predict([draw(2)])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    now = np.random.get_state(legacy=False)  # noqa: NPY002
    assert np.array_equal(now["state"]["key"], numpy_state["state"]["key"])
    assert now["state"]["pos"] == numpy_state["state"]["pos"]


def test_one_seed_gives_one_bank() -> None:
    torch.manual_seed(1)
    first = tiny.detector(seed=3).fit(GOOD[:4])
    torch.manual_seed(2)
    second, other = tiny.detector(seed=3).fit(GOOD[:4]), tiny.detector(seed=4).fit(GOOD[:4])
    assert torch.equal(first.bank.vectors, second.bank.vectors)
    assert torch.equal(first.bank.origin, second.bank.origin)
    assert first.threshold == second.threshold
    assert not torch.equal(first.bank.vectors, other.bank.vectors)


def test_a_crop_leaves_the_border_out() -> None:
    preprocessing = {"size": [40, 40], "keep_aspect": True, "crop": [32, 32]}
    detector = tiny.detector(preprocessing=preprocessing).fit(GOOD[:3])
    (prediction,) = detector.predict([draw(9, shape=(160, 240))])
    inside = np.zeros((160, 240), dtype=bool)
    inside[16:144, 56:184] = True
    assert (map_of(prediction)[~inside] == 0).all()
    assert (map_of(prediction)[inside] > 0).mean() > 0.99


def test_unreadable_images_stop_or_are_skipped(fitted_detector: pp.Detector, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    images: list[Any] = [draw(0), broken, draw(1)]
    with pytest.raises(pp.ImageError, match=r"broken\.png"):
        tiny.detector().fit(images)
    detector = tiny.detector().fit(images, on_error="skip")
    assert [error.path for error in detector.skipped] == [str(broken)]
    assert len(detector.images) == len(detector.held_out_scores) == 2
    predictions = list(fitted_detector.predict_each(images, on_error="skip"))
    assert [type(each) for each in predictions] == [pp.Prediction, pp.ImageError, pp.Prediction]
    assert len(fitted_detector.predict(images, on_error="skip")) == 2
    with pytest.raises(pp.ImageError, match="no readable image"):
        tiny.detector().fit([broken], on_error="skip")


def test_errors_come_at_their_place(fitted_detector: pp.Detector) -> None:
    images: list[Any] = [*GOOD[:9], "missing.png", draw(10)]
    predictions = fitted_detector.predict_each(images)
    assert all(isinstance(next(predictions), pp.Prediction) for _ in range(9))
    with pytest.raises(pp.ImageError, match=r"missing\.png"):
        next(predictions)


def test_batches_do_not_change_scores(fitted_detector: pp.Detector) -> None:
    images = [draw(seed, defect=seed % 2 == 0) for seed in range(10)]
    assert scores(fitted_detector, images) == pytest.approx(
        [scores(fitted_detector, [image])[0] for image in images], rel=1e-4
    )


def test_an_unfitted_detector_says_so() -> None:
    detector = tiny.detector()
    assert detector.threshold is None
    for call in (lambda: detector.predict([draw(0)]), lambda: detector.update([draw(0)]), lambda: detector.bank):
        with pytest.raises(pp.TensorError, match="not fitted"):
            call()


def test_a_detector_of_several_members_has_no_single_bank() -> None:
    detector = tiny.ensemble({}, {"sampler": {"ratio": 0.2}}).fit(GOOD)
    with pytest.raises(pp.OptionError, match="2 members"):
        _ = detector.bank
    assert detector.covering_radius is None
    assert detector.bank_rows == sum(member.bank_rows for member in detector.members)


def test_a_recipe_is_changed_by_keywords() -> None:
    detector = pp.Detector.from_recipe(
        "patchcore", host=tiny.host(), device="cpu", seed=4, backbone="tiny", sampler={"ratio": 0.3}, map=None
    )
    assert detector.recipe.sampler.options["ratio"] == 0.3
    assert detector.recipe.sampler.options["seed"] == 4
    assert str(detector.device) == "cpu"


def test_training_images_are_those_with_a_path(tmp_path: Path) -> None:
    paths = tiny.write(tmp_path, 2)
    detector = tiny.detector().fit([paths[1], draw(7), paths[0]], keep_thumbnails=True)
    assert detector.training_images == (str(paths[1]), str(paths[0]))
    assert [image["path"] for image in detector.images] == [str(paths[1]), None, str(paths[0])]
    assert sorted(detector.thumbnails) == [0, 1, 2]
    assert [path for path, _ in detector.held_out_scores] == [str(paths[1]), None, str(paths[0])]
    assert detector.fit(GOOD[:3]).thumbnails == {}


def test_the_description_has_no_images() -> None:
    description = tiny.detector().fit(GOOD[:3]).describe()
    assert description["bank_rows"] == 20
    assert not {"photos", "images", "calibration"} & description.keys()
    several = tiny.ensemble({}, {}).fit(GOOD[:3]).describe()
    assert [member["bank_rows"] for member in several["members"]] == [20, 20]


def test_bf16_stays_near_fp32(tmp_path: Path) -> None:
    images = [draw(seed, defect=seed % 2 == 0) for seed in range(30, 36)]
    exact = pp.Detector.from_recipe("patchcore", **SMALL).fit(GOOD)
    exact.save(tmp_path / "part.safetensors")
    coarse = pp.Detector.load(tmp_path / "part.safetensors", device="cpu", precision="bf16")
    assert scores(coarse, images) == pytest.approx(scores(exact, images), rel=0.1, abs=2)
    assert scores(coarse, images) != scores(exact, images)
    coarse.save(tmp_path / "coarse.safetensors")
    assert pp.Detector.load(tmp_path / "coarse.safetensors").precision == "bf16"


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(pp.OptionError, match="'fp16'"):
        pp.Detector(tiny.recipe(), device="cpu", precision="fp16", host=tiny.host())  # type: ignore[arg-type]


LOAD = """
import sys
import numpy as np
import patchcore_plugin as pp

for each in pp.Detector.load(sys.argv[1], device="cpu").predict(list(np.load(sys.argv[2]))):
    print(each.score.hex(), each.anomaly_map.tobytes().hex()[:4000], each.threshold.hex(), each.nearest)
"""


@pytest.mark.e2e
def test_another_process_gives_the_same_bits(tmp_path: Path) -> None:
    images = [draw(seed, defect=seed % 2 == 0) for seed in range(200, 204)]
    detector = pp.Detector.from_recipe("patchcore", **SMALL).fit(GOOD)
    detector.save(tmp_path / "part.safetensors")
    np.save(tmp_path / "images.npy", np.stack(images))
    files = [str(tmp_path / name) for name in ("part.safetensors", "images.npy")]
    ended = subprocess.run([sys.executable, "-c", LOAD, *files], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    expected = [
        f"{each.score.hex()} {map_of(each).tobytes().hex()[:4000]} {(each.threshold or 0.0).hex()} {each.nearest}"
        for each in detector.predict(images)
    ]
    assert ended.stdout.splitlines() == expected
