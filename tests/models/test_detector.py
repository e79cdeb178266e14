"""The detector as a whole, on small drawn images."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.data.images import write_png
from tests.evaluation.plates import Image, draw, make


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
def test_maps_have_the_images_own_size(fitted: pp.Detector, shape: tuple[int, int]) -> None:
    (found,) = fitted.predict([draw(7, shape=shape)])
    assert found.anomaly_map is not None
    assert found.anomaly_map.shape == shape
    assert found.anomaly_map.dtype == np.float32
    assert np.isfinite(found.anomaly_map).all()


def test_paths_and_arrays_give_the_same(fitted: pp.Detector, tmp_path: Path) -> None:
    image = draw(50, defect=True)
    write_png(tmp_path / "image.png", image)
    (from_array,) = fitted.predict([image])
    (from_path,) = fitted.predict([tmp_path / "image.png"])
    assert from_path.score == from_array.score
    assert from_path.path == str(tmp_path / "image.png")
    assert from_array.path is None


def test_global_state_is_left_alone() -> None:
    torch.manual_seed(5)
    state, threads, numpy_state = torch.get_rng_state(), torch.get_num_threads(), np.random.get_state(legacy=False)  # noqa: NPY002
    make().fit([draw(0), draw(1)]).predict([draw(2)])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    now = np.random.get_state(legacy=False)  # noqa: NPY002
    assert np.array_equal(now["state"]["key"], numpy_state["state"]["key"])
    assert now["state"]["pos"] == numpy_state["state"]["pos"]


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


def test_unreadable_images_stop_or_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images: list[Any] = [draw(0), tmp_path / "broken.png", draw(1)]
    with pytest.raises(pp.ImageError, match=r"broken\.png"):
        make().fit(images)
    detector = make().fit(images, on_error="skip")
    assert next(str(error) for error in detector.skipped).startswith(str(tmp_path / "broken.png"))
    found = list(detector.predict_each(images, on_error="skip"))
    assert [type(each) for each in found] == [pp.Prediction, pp.ImageError, pp.Prediction]
    with pytest.raises(pp.ImageError, match="no image to fit on"):
        make().fit([tmp_path / "broken.png"], on_error="skip")


def test_bf16_stays_near_fp32(fitted: pp.Detector, tmp_path: Path) -> None:
    images = [draw(seed, defect=seed % 2 == 0) for seed in range(30, 36)]
    fitted.save(tmp_path / "part.safetensors")
    coarse = pp.Detector.load(tmp_path / "part.safetensors", device="cpu", precision="bf16")
    wanted = [found.score for found in fitted.predict(images)]
    got = [found.score for found in coarse.predict(images)]
    assert got == pytest.approx(wanted, rel=0.1, abs=2)
    assert got != wanted
    coarse.save(tmp_path / "coarse.safetensors")
    assert pp.Detector.load(tmp_path / "coarse.safetensors").precision == "bf16"
    with pytest.raises(pp.OptionError, match="precision must be fp32 or bf16, got 'fp16'"):
        make(precision="fp16")


def test_not_fitted() -> None:
    with pytest.raises(pp.TensorError, match="the detector is not fitted; call fit or load first"):
        make().predict([draw(0)])


def test_batches_do_not_change_scores(fitted: pp.Detector) -> None:
    images = [draw(seed, defect=seed % 2 == 0) for seed in range(10)]
    together = [found.score for found in fitted.predict(images)]
    alone = [fitted.predict([image])[0].score for image in images]
    assert together == pytest.approx(alone, rel=1e-4)


LOAD = """
import sys
import numpy as np
import patchcore_plugin as pp
from patchcore_plugin import memory

images = list(np.load(sys.argv[2]))
for found in pp.Detector.load(sys.argv[1], device="cpu").predict(images):
    print(found.score.hex(), found.anomaly_map.tobytes().hex()[:4000], found.threshold.hex(), found.nearest)
"""


def test_another_process_gives_the_same_bits(fitted: pp.Detector, tmp_path: Path) -> None:
    images = [draw(seed, defect=seed % 2 == 0) for seed in range(200, 204)]
    fitted.save(tmp_path / "part.safetensors")
    np.save(tmp_path / "images.npy", np.stack(images))
    files = [str(tmp_path / name) for name in ("part.safetensors", "images.npy")]
    done = subprocess.run([sys.executable, "-c", LOAD, *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    wanted = []
    for found in fitted.predict(images):
        assert found.anomaly_map is not None
        assert found.threshold is not None
        bits = found.anomaly_map.tobytes().hex()[:4000]
        wanted.append(f"{found.score.hex()} {bits} {found.threshold.hex()} {found.nearest}")
    assert done.stdout.splitlines() == wanted


def test_images_are_asked_for_as_they_are_needed(fitted: pp.Detector) -> None:
    asked = 0

    def endless() -> Iterator[Image]:
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
    images: list[Any] = [*(draw(seed) for seed in range(9)), tmp_path / "broken.png", draw(10)]
    found = fitted.predict_each(images)
    assert all(isinstance(next(found), pp.Prediction) for _ in range(9))
    with pytest.raises(pp.ImageError, match=r"broken\.png"):
        next(found)
