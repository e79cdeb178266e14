"""`patchcore predict`: the line and the pictures of each image, and what is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

import patchcore_plugin as pp
from tests.commands import Ended, corrupt, done, failure, json_lines, patchcore

Judged = tuple[Path, list[Path], Ended]
"""The folder of the results, the images, and how the command ended."""


@pytest.fixture(scope="module")
def judged(washer_model: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """A run over good and defective images, one of them of another size with a name that needs care."""
    folder = tmp_path_factory.mktemp("judged")
    odd = folder / "ä image [1].png"
    image = cv2.imread(str(dataset / "test" / "blot" / "001.png"))
    assert image is not None
    odd.write_bytes(cv2.imencode(".png", cv2.resize(image, (61, 130)))[1].tobytes())
    images = [dataset / "test" / "good" / "000.png", dataset / "test" / "blot" / "000.png", odd]
    ended = done("predict", washer_model, *images, "--out", folder / "results", "--device", "cpu")
    return folder / "results", images, ended


def test_predict_writes_a_line_for_each_image(judged: Judged, washer_model: Path, good: Path) -> None:
    out, images, _ = judged
    records = json_lines(out / "results.jsonl")
    assert [record["path"] for record in records] == [str(image) for image in images]
    threshold = pp.Detector.load(washer_model, device="cpu").threshold
    for record in records:
        assert list(record) == [
            *("path", "width", "height", "score", "p_value", "threshold", "is_anomalous"),
            *("map", "nearest", "regions", "overlay", "why", "scale"),
        ]
        assert record["threshold"] == threshold
        assert record["is_anomalous"] == (record["score"] > record["threshold"])
        assert list(record["nearest"]) == ["image", "x", "y", "peak_x", "peak_y", "distance"]
        assert Path(record["nearest"]["image"]) in good.iterdir()
        assert 0 <= record["nearest"]["x"] < 96
        assert 0 <= record["nearest"]["y"] < 72
        assert record["scale"] == records[0]["scale"]
    assert records[1]["score"] > records[0]["score"]
    assert (records[1]["is_anomalous"], records[1]["p_value"]) == (True, 1 / 11)


def test_predict_draws_in_the_images_own_size(judged: Judged) -> None:
    out, images, _ = judged
    records = json_lines(out / "results.jsonl")
    for image, record in zip(images, records, strict=True):
        original = cv2.imdecode(np.frombuffer(image.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert original is not None
        for key in ("map", "overlay"):
            drawn = cv2.imdecode(np.frombuffer((out / record[key]).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
            assert drawn is not None
            assert drawn.shape == original.shape
        assert 0 <= record["nearest"]["peak_x"] < original.shape[1]
        assert 0 <= record["nearest"]["peak_y"] < original.shape[0]
    assert len(list((out / "heat_maps").iterdir())) == len(list((out / "overlays").iterdir())) == 3


def test_predict_finds_the_place_of_a_defect(judged: Judged, dataset: Path) -> None:
    out, _, _ = judged
    nearest = json_lines(out / "results.jsonl")[1]["nearest"]
    mask = cv2.imread(str(dataset / "ground_truth" / "blot" / "000_mask.png"), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    rows, columns = np.nonzero(mask)
    distance = np.hypot(rows - nearest["peak_y"], columns - nearest["peak_x"]).min()
    assert distance <= 14  # a patch is 12 pixels wide and 9 high


def test_predict_prints_a_table(judged: Judged) -> None:
    out, images, ended = judged
    assert re.search(rf"^defect +\d+\.\d{{3}} +0\.091 +{re.escape(str(images[1]))} *$", ended.out, re.MULTILINE)
    assert re.search(rf"^\w+ +\d+\.\d{{3}} +[01]\.\d{{3}} +{re.escape(str(images[2]))} *$", ended.out, re.MULTILINE)
    defective = sum(record["is_anomalous"] for record in json_lines(out / "results.jsonl"))
    assert f"\njudged     3, {defective} defective\nthreshold  " in ended.out
    assert " (at most 9.09% false alarms; scores of 10 good images, " in ended.out
    assert f"written    {out / 'results.jsonl'}, {out / 'heat_maps'}, {out / 'overlays'}, {out / 'why'}\n" in ended.out
    assert ended.err == "judging images: 3/3\n"


def test_predict_gives_the_same_scores_as_the_api(judged: Judged, washer_model: Path) -> None:
    out, images, _ = judged
    predictions = pp.Detector.load(washer_model, device="cpu").predict(images)
    records = json_lines(out / "results.jsonl")
    assert [record["score"] for record in records] == [prediction.score for prediction in predictions]


def test_predict_as_json_with_an_unreadable_image(washer_model: Path, dataset: Path, tmp_path: Path) -> None:
    bad, out = corrupt(tmp_path / "bad.png"), tmp_path / "results"
    images = [dataset / "test" / "good" / "000.png", dataset / "test" / "good" / "001.png"]
    command = ["predict", washer_model, images[0], bad, images[1], "--out", out, "--device", "cpu"]
    ended = patchcore(*command, "--json")
    assert ended.code == 1
    content = json.loads(ended.out)
    assert list(content) == ["results", "failed"]
    assert [record["path"] for record in content["results"]] == [str(image) for image in images]
    assert json_lines(out / "results.jsonl") == content["results"]
    (reason,) = content["failed"]
    assert reason.startswith(f"{bad}: not a readable image (")
    assert reason.endswith("); replace or remove it")  # and no advice to skip it
    assert ended.err.endswith(f"patchcore: {reason}\npatchcore: 1 of 3 images were skipped; all others are done\n")
    assert len(list((out / "overlays").iterdir())) == 2

    assert patchcore(*command).code == 1
    stopped = patchcore(*command, "--on-error", "stop")
    assert stopped.code == 1
    assert stopped.out == ""
    assert stopped.err == f"patchcore: {reason}, or pass --on-error skip\n"


def test_pictures_of_an_earlier_run_are_no_images(washer_model: Path, dataset: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "images" / "results"
    folder.mkdir()
    (folder / "a.png").write_bytes((dataset / "test" / "blot" / "000.png").read_bytes())
    for _ in range(2):
        done("predict", washer_model, folder, "--out", out, "--device", "cpu")
        assert [record["path"] for record in json_lines(out / "results.jsonl")] == [str(folder / "a.png")]
    assert failure("predict", washer_model, out, "--out", out).startswith(f"{out}: no images in this folder (")
