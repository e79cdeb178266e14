"""`patchcore predict`: results, heat maps and overlays of each image, and the summary."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

import patchcore_plugin as pp
from tests.commands import CommandResult, corrupt, json_lines, patchcore, run_command, run_failing

Run = tuple[Path, list[Path], CommandResult]
"""The folder of results, the images, and the output of the command."""


@pytest.fixture(scope="module")
def run(washer_model: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Predict good and defective images, one of them with another size and an unusual name."""
    folder = tmp_path_factory.mktemp("run")
    odd = folder / "ä image [1].png"
    image = cv2.imread(str(dataset / "test" / "blot" / "001.png"))
    assert image is not None
    odd.write_bytes(cv2.imencode(".png", cv2.resize(image, (61, 130)))[1].tobytes())
    images = [dataset / "test" / "good" / "000.png", dataset / "test" / "blot" / "000.png", odd]
    ended = run_command("predict", washer_model, *images, "--out", folder / "results", "--device", "cpu")
    return folder / "results", images, ended


def test_record_of_each_image(run: Run, washer_model: Path, good: Path) -> None:
    out, images, _ = run
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


def test_heat_maps_and_overlays_have_the_size_of_the_image(run: Run) -> None:
    out, images, _ = run
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


def test_peak_lies_on_the_defect(run: Run, dataset: Path) -> None:
    out, _, _ = run
    nearest = json_lines(out / "results.jsonl")[1]["nearest"]
    mask = cv2.imread(str(dataset / "ground_truth" / "blot" / "000_mask.png"), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    rows, columns = np.nonzero(mask)
    distance = np.hypot(rows - nearest["peak_y"], columns - nearest["peak_x"]).min()
    assert distance <= 14  # a patch is 12 pixels wide and 9 high


def test_table_and_summary(run: Run) -> None:
    out, images, ended = run
    assert re.search(rf"^defect +\d+\.\d{{3}} +0\.091 +{re.escape(str(images[1]))} *$", ended.out, re.MULTILINE)
    assert re.search(rf"^\w+ +\d+\.\d{{3}} +[01]\.\d{{3}} +{re.escape(str(images[2]))} *$", ended.out, re.MULTILINE)
    defective = sum(record["is_anomalous"] for record in json_lines(out / "results.jsonl"))
    assert f"3 images, {defective} defective\n" in ended.out
    assert ended.err == "scoring images: 3/3\n"


def test_scores_are_those_of_the_api(run: Run, washer_model: Path) -> None:
    out, images, _ = run
    predictions = pp.Detector.load(washer_model, device="cpu").predict(images)
    records = json_lines(out / "results.jsonl")
    assert [record["score"] for record in records] == [prediction.score for prediction in predictions]


def test_json_with_an_unreadable_image(washer_model: Path, dataset: Path, tmp_path: Path) -> None:
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
    assert reason.startswith(f"{bad}: ")
    assert "--on-error" not in reason
    assert f"patchcore: {reason}\n" in ended.err
    assert len(list((out / "overlays").iterdir())) == 2

    assert patchcore(*command).code == 1
    stopped = patchcore(*command, "--on-error", "stop")
    assert stopped.code == 1
    assert stopped.out == ""
    assert stopped.err.endswith("--on-error skip\n")


def test_results_of_an_earlier_run_are_not_inputs(washer_model: Path, dataset: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "images" / "results"
    folder.mkdir()
    (folder / "a.png").write_bytes((dataset / "test" / "blot" / "000.png").read_bytes())
    for _ in range(2):
        run_command("predict", washer_model, folder, "--out", out, "--device", "cpu")
        assert [record["path"] for record in json_lines(out / "results.jsonl")] == [str(folder / "a.png")]
    assert run_failing("predict", washer_model, out, "--out", out).startswith(f"{out}: no images")
