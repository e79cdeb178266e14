"""Explanation pictures, and the thumbnails that they can be cut from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open

import patchcore_plugin as pp
from patchcore_plugin.data.images import read_image, write_png
from patchcore_plugin.data.thumbnails import LIMIT, LONGEST, decode_thumbnail, encode_thumbnail
from patchcore_plugin.inference import ExplanationPictures, explain, explanation_picture
from patchcore_plugin.inference.explain import CACHE_SIZE, GAP, MIN_CROP, SIDE
from patchcore_plugin.models.file import read_manifest
from patchcore_plugin.models.recalibration import recalibrate
from patchcore_plugin.models.thumbnail_tensors import pack_thumbnails, unpack_thumbnails
from tests.commands import SMALL, patchcore
from tests.conftest import draw, write
from tests.inference.predictions import FakePrediction

RED, GREEN, GREY = (200, 30, 30), (30, 160, 30), (90, 90, 90)
LEFT, RIGHT = np.s_[:, :SIDE], np.s_[:, SIDE + GAP :]


def plate(
    size: tuple[int, int], box: tuple[int, int, int, int], colour: tuple[int, int, int], dtype: type = np.uint8
) -> NDArray[Any]:
    """Return a grey image with one patch of another colour."""
    image = np.full((*size, 3), GREY, dtype=np.uint8)
    left, top, width, height = box
    image[top : top + height, left : left + width] = colour
    return image if dtype is np.uint8 else image.astype(dtype) * dtype(257)


def prediction(pixels: NDArray[Any], peak_box: tuple[int, int, int, int], **nearest: Any) -> pp.Prediction:
    """Return a prediction whose nearest normal patch is the same box of image 0."""
    size = pixels.shape[0], pixels.shape[1]
    x, y = peak_box[0] + peak_box[2] // 2, peak_box[1] + peak_box[3] // 2
    entries: dict[str, Any] = {
        **{"image": None, "x": x, "y": y, "peak_x": x, "peak_y": y, "distance": 1.0},
        **{"number": 0, "size": size, "box": peak_box, "peak_box": peak_box, **nearest},
    }
    return FakePrediction(None, 2.0, None, size=size, nearest=pp.Nearest(**entries), pixels=pixels)


def is_colour(pixels: NDArray[Any], colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels.astype(int) - colour).max(axis=-1) < 12).all())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_anomalous_patch_is_left_and_normal_patch_right(tmp_path: Path, dtype: type) -> None:
    size, box, normal_box = (300, 400), (200, 120, 20, 16), (40, 200, 20, 16)
    write_png(tmp_path / "normal.png", plate(size, normal_box, GREEN, dtype))
    nearest = {"image": str(tmp_path / "normal.png"), "x": 50, "y": 208, "box": normal_box}
    picture = explanation_picture(prediction(plate(size, box, RED, dtype), box, **nearest), {})
    assert picture is not None
    assert picture.shape == (SIDE, 2 * SIDE + GAP, 3)
    assert picture.dtype == np.uint8
    # A fifth of 300 pixels is drawn on 192.
    enlarged = SIDE / 60
    for half, colour in ((picture[LEFT], RED), (picture[RIGHT], GREEN)):
        across, down = int(10 * enlarged), int(8 * enlarged)
        middle = SIDE // 2
        assert is_colour(half[middle - down + 6 : middle + down - 6, middle - across + 6 : middle + across - 6], colour)
        assert is_colour(half[: middle - down - 6], GREY)
        assert is_colour(half[:, : middle - across - 6], GREY)
        frame = half[middle - down - 3 : middle - down + 3, middle]
        assert frame.max() > 200
        assert frame.min() < 20
    assert is_colour(picture[:, SIDE : SIDE + GAP], (255, 255, 255))


@pytest.mark.parametrize(("x", "y"), [(0, 0), (392, 0), (0, 292), (392, 292)])
def test_crop_at_a_border_is_moved_inside(x: int, y: int) -> None:
    size, box = (300, 400), (x, y, 8, 8)
    image = plate(size, box, RED)
    picture = explanation_picture(prediction(image, box), {0: encode_thumbnail(image)})
    assert picture is not None
    # 8 of 60 pixels are 26 of 192; a crop cut off at the border would show them larger.
    rows, columns = (np.arange(SIDE) < 34 if place == 0 else np.arange(SIDE) >= SIDE - 34 for place in (y, x))
    within = np.outer(rows, columns)
    assert is_colour(picture[LEFT][~within], GREY)
    near = picture[LEFT][6:18] if y == 0 else picture[LEFT][-18:-6]
    assert is_colour(near[:, 6:18] if x == 0 else near[:, -18:-6], RED)


@pytest.mark.parametrize("size", [(30, 44), (9, 200), (1, 1)])
def test_image_smaller_than_a_crop_is_shown_whole(size: tuple[int, int]) -> None:
    assert min(size) < MIN_CROP
    image = plate(size, (0, 0, 1, 1), RED)
    picture = explanation_picture(prediction(image, (0, 0, 1, 1)), {0: encode_thumbnail(image)})
    assert picture is not None
    assert picture.shape == (SIDE, 2 * SIDE + GAP, 3)


def test_crop_can_be_less_than_a_pixel_of_the_thumbnail() -> None:
    size, box = (10, 20000), (19995, 2, 5, 5)
    image = plate(size, box, RED)
    assert decode_thumbnail(encode_thumbnail(image)).shape == (1, LONGEST, 3)
    picture = explanation_picture(prediction(image, box), {0: encode_thumbnail(image)})
    assert picture is not None
    assert picture.shape == (SIDE, 2 * SIDE + GAP, 3)


def test_thumbnail_and_file_show_the_same_part_of_a_large_image(tmp_path: Path) -> None:
    size, box = (1500, 2000), (1203, 700, 120, 120)
    image = cv2.GaussianBlur(plate(size, box, GREEN), (0, 0), 9)
    write_png(tmp_path / "normal.png", image)
    explained = prediction(image, box, image=str(tmp_path / "normal.png"))
    small = encode_thumbnail(image)
    assert decode_thumbnail(small).shape == (384, LONGEST, 3)
    from_file = explanation_picture(explained, {})
    from_thumbnail = explanation_picture(explained, {0: small})
    assert from_file is not None
    assert from_thumbnail is not None
    difference = np.abs(from_file[RIGHT].astype(int) - from_thumbnail[RIGHT])
    assert difference.mean() < 3
    assert is_colour(from_file[RIGHT][SIDE // 2 - 5 : SIDE // 2 + 5, SIDE // 2 - 5 : SIDE // 2 + 5], GREEN)
    assert np.abs(from_file[RIGHT].astype(int) - from_file[LEFT]).mean() < 3


def test_no_picture_without_the_training_image(tmp_path: Path) -> None:
    size, box = (60, 80), (10, 10, 8, 8)
    image = plate(size, box, RED)
    write_png(tmp_path / "other.png", image[:50])
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    for path in (None, tmp_path / "gone.png", tmp_path / "other.png", tmp_path / "text.png", tmp_path):
        explained = prediction(image, box, image=None if path is None else str(path))
        assert explanation_picture(explained, {}) is None, path
    explained = prediction(image, box)
    for incomplete in (replace(explained, nearest=None), replace(explained, pixels=None)):
        assert explanation_picture(incomplete, {0: encode_thumbnail(image)}) is None


def test_recent_training_images_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, box = (60, 80), (10, 10, 8, 8)
    image = plate(size, box, RED)
    write_png(tmp_path / "normal.png", image)
    reads: list[str] = []

    def read(path: str) -> NDArray[Any]:
        reads.append(path)
        return read_image(path)

    monkeypatch.setattr(explain, "read_image", read)
    pictures = ExplanationPictures({})

    def explain_with(number: int) -> None:
        explained = prediction(image, box, image=str(tmp_path / "normal.png"), number=number)
        assert pictures(explained) is not None

    for number in [*range(CACHE_SIZE), 0, 5]:
        explain_with(number)
    assert len(reads) == CACHE_SIZE
    explain_with(CACHE_SIZE)
    explain_with(0)
    assert len(reads) == CACHE_SIZE + 1
    explain_with(1)
    assert len(reads) == CACHE_SIZE + 2


def make(**changes: Any) -> pp.Detector:
    small: dict[str, Any] = {"preprocessing": {"size": [64, 64]}, "sampler": {"ratio": 0.05}, "device": "cpu"}
    return pp.Detector.from_recipe("patchcore", **{"backbone": "efficientnet-lite0", **small, **changes})


@pytest.fixture(scope="module")
def fitted() -> pp.Detector:
    return make().fit([draw(seed) for seed in range(10)], keep_thumbnails=True)


def test_thumbnails_have_the_numbers_of_their_images(fitted: pp.Detector) -> None:
    assert dict(fitted.thumbnails) == {seed: encode_thumbnail(draw(seed)) for seed in range(10)}
    (outcome,) = fitted.predict([draw(3)])
    assert outcome.nearest is not None
    bank_images = set(fitted.bank.origin[:, 0].tolist())
    assert outcome.nearest.number in bank_images
    assert np.abs(decode_thumbnail(fitted.thumbnails[3]).astype(int) - draw(3)).mean() < 4


def test_thumbnails_are_saved_in_format_1(fitted: pp.Detector, tmp_path: Path) -> None:
    for name in ("one", "two"):
        fitted.save(tmp_path / name)
    again = make().fit([draw(seed) for seed in range(10)], keep_thumbnails=True)
    again.save(tmp_path / "three")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == (tmp_path / "three").read_bytes()
    loaded = pp.Detector.load(tmp_path / "one")
    assert loaded.thumbnails == fitted.thumbnails
    with safe_open(tmp_path / "one", framework="np") as file:
        assert json.loads(file.metadata()["patchcore"])["format"] == 1
    calibration, _ = recalibrate(loaded, [draw(seed) for seed in range(20, 24)], [])
    loaded.calibration = calibration
    loaded.save(tmp_path / "one")
    assert pp.Detector.load(tmp_path / "one").thumbnails == fitted.thumbnails
    assert not make().fit([draw(seed) for seed in range(3)]).thumbnails


@pytest.mark.slow
def test_ensemble_saves_thumbnails_once(tmp_path: Path) -> None:
    ensemble = pp.Detector.from_recipe(
        "patchcore-ensemble",
        backbone="efficientnet-lite0",
        preprocessing={"size": [64, 64]},
        sampler={"ratio": 0.05},
        device="cpu",
    )
    ensemble.fit([draw(seed) for seed in range(4)], keep_thumbnails=True).save(tmp_path / "model")
    loaded = pp.load_model(tmp_path / "model")
    assert loaded.thumbnails == ensemble.thumbnails
    assert sorted(loaded.thumbnails) == [0, 1, 2, 3]
    names = read_manifest(tmp_path / "model")["tensors"]
    assert sum("thumbnails" in name for name in names) == 2
    image = draw(50, defect=True)
    (outcome,) = loaded.predict_each([image], keep_pixels=True)
    assert isinstance(outcome, pp.Prediction)
    assert explanation_picture(outcome, loaded.thumbnails) is not None


def test_update_adds_thumbnails_only_if_there_are_some(tmp_path: Path) -> None:
    for seed in range(7):
        write(tmp_path / f"{seed}.png", draw(seed))
    old, new = ([tmp_path / f"{seed}.png" for seed in seeds] for seeds in (range(4), range(4, 7)))
    updated = make().fit(old, keep_thumbnails=True).update(new)
    expected = [encode_thumbnail(read_image(path)) for path in updated.training_images]
    assert [updated.thumbnails[number] for number in range(7)] == expected
    assert {Path(path) for path in updated.training_images} == {*old, *new}
    assert not make().fit(old).update(new).thumbnails


def test_packed_thumbnails_are_unpacked() -> None:
    some = {1: b"one", 3: b"three"}
    assert unpack_thumbnails(Path("m"), pack_thumbnails(some, 5), 5) == some
    assert pack_thumbnails({}, 5) == {}
    assert unpack_thumbnails(Path("m"), {}, 5) == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.pop("thumbnails.offsets"),
        lambda tensors: tensors.update({"thumbnails.offsets": tensors["thumbnails.offsets"][:-1]}),
        lambda tensors: tensors.update({"thumbnails.offsets": tensors["thumbnails.offsets"].int()}),
        lambda tensors: tensors.update({"thumbnails.data": tensors["thumbnails.data"][:-1]}),
        lambda tensors: tensors.update({"thumbnails.data": tensors["thumbnails.data"].float()}),
        lambda tensors: tensors["thumbnails.offsets"].__setitem__(1, -1),
        lambda tensors: tensors["thumbnails.offsets"].__setitem__(0, 1),
        lambda tensors: tensors["thumbnails.offsets"].__setitem__(1, 9),
    ],
)
def test_invalid_offsets_are_refused(damage: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = pack_thumbnails({0: b"one", 1: b"two"}, 2)
    damage(tensors)
    with pytest.raises(pp.ModelFileError, match=r"m: damaged \(its thumbnails are not those of 2 images\); fit again"):
        unpack_thumbnails(Path("m"), tensors, 2)


def test_thumbnail_that_is_not_a_small_jpeg_is_refused() -> None:
    good = encode_thumbnail(draw(0))
    large = cv2.imencode(".jpg", np.zeros((1, LIMIT + 1, 3), np.uint8))[1].tobytes()
    png = cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes()
    for file, reason in (
        (good[:200], "the file is cut short"),
        (b"text", "it contains text"),
        (large, f"a JPEG file of {LIMIT + 1} x 1 pixels"),
        (png, "a PNG file of 2 x 2 pixels"),
    ):
        with pytest.raises(pp.ModelFileError, match=rf"model file is damaged \({reason}\); fit again"):
            decode_thumbnail(file)


@pytest.mark.slow
def test_predict_explains_defects_without_the_training_images(tmp_path: Path) -> None:
    for seed in range(8):
        write(tmp_path / "good" / f"{seed}.png", draw(seed))
    write(tmp_path / "new" / "bad.png", draw(50, defect=True))
    write(tmp_path / "new" / "good.png", draw(3))
    model, out = tmp_path / "part.safetensors", tmp_path / "out"
    for options, explained in (["--keep-thumbnails"], True), ([], False):
        assert patchcore("fit", tmp_path / "good", "--out", model, *options, *SMALL).code == 0
        shutil.move(tmp_path / "good", tmp_path / "moved")
        process = patchcore("predict", model, tmp_path / "new", "--out", out, "--coco", "--device", "cpu")
        assert process.code == 0
        shutil.move(tmp_path / "moved", tmp_path / "good")
        bad, good = (json.loads(line) for line in (out / "results.jsonl").read_text().splitlines())
        assert (bad["is_anomalous"], good["is_anomalous"], good["why"]) == (True, False, None)
        assert (bad["why"], str(out / "why") in process.out) == (
            ("why/new_bad.png", True) if explained else (None, False)
        )
        if explained:
            assert read_image(out / bad["why"]).shape == (SIDE, 2 * SIDE + GAP, 3)
    coco = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["bad.png", "good.png"]
    assert len(coco["annotations"]) == len(bad["regions"]) + len(good["regions"])
    assert coco["info"]["model"] == str(model)
    assert coco["annotations"][0]["score"] == bad["regions"][0]["peak"]
