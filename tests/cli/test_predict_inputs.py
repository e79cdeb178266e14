"""Inputs of `patchcore predict` other than image files: lists on standard input, and videos."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import patchcore_plugin as pp
from patchcore_plugin.cli import command_line, main
from patchcore_plugin.data.video import Frame, read_frames
from patchcore_plugin.errors import ImageError
from patchcore_plugin.inference.runner import predict_files
from tests.commands import json_lines
from tests.data.videos import draw_part, write_image, write_video


@pytest.fixture(scope="module")
def detector() -> pp.Detector:
    return pp.Detector.from_recipe(
        "patchcore",
        backbone="efficientnet-lite0",
        preprocessing={"size": [64, 64]},
        sampler={"name": "random", "ratio": 0.2},
        device="cpu",
    ).fit([draw_part(seed=seed) for seed in range(6)])


@pytest.fixture(scope="module")
def model(detector: pp.Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fitted") / "part.safetensors"
    detector.save(path)
    return path


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with two images."""
    write_image(tmp_path / "good.png", draw_part(seed=20))
    write_image(tmp_path / "bad.png", draw_part(seed=21, defect=True))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(model: Path, *arguments: object, stdin: bytes = b"") -> Result:
    words = ["predict", str(model), *map(str, arguments), "--out", "out", "--device", "cpu"]
    return CliRunner().invoke(command_line, words, input=stdin)


def records() -> list[dict[str, Any]]:
    return json_lines(Path("out/results.jsonl"))


def test_list_on_standard_input(images: Path, model: Path) -> None:
    ended = predict(model, "-", stdin=b"good.png\n\n# a comment\nbad.png\n")
    assert ended.exit_code == 0, ended.output
    assert [record["path"] for record in records()] == ["good.png", "bad.png"]
    assert "scoring images: 2/2\n" in ended.stderr
    lines = records()
    ended = predict(model, images / "good.png", "-", "--null", stdin=b"bad.png\0")
    assert ended.exit_code == 0, ended.output
    assert [record["score"] for record in records()] == [record["score"] for record in lines]
    ended = predict(model, "-")
    assert ended.exit_code == 0, ended.output
    assert records() == []


@pytest.mark.usefixtures("images")
def test_list_with_a_missing_image(model: Path) -> None:
    ended = predict(model, "-", "--json", stdin=b"good.png\nnone.png\nbad.png\n")
    assert ended.exit_code == 1
    document = json.loads(ended.stdout)
    assert document["results"] == records()
    assert [record["path"] for record in records()] == ["good.png", "bad.png"]
    (line,) = document["failed"]
    assert line.startswith("none.png: no such file")
    assert f"patchcore: {line}\n" in ended.stderr
    stopped = predict(model, "-", "--on-error", "stop", stdin=b"none.png\ngood.png\n")
    assert isinstance(stopped.exception, ImageError)


def test_results_appear_before_the_list_is_complete(
    images: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    in_time: list[bool] = []

    def write() -> None:
        results, deadline = images / "out" / "results.jsonl", time.monotonic() + 120
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            pipe.write(b"good.png\nba")
            while not (results.exists() and results.stat().st_size) and time.monotonic() < deadline:
                time.sleep(0.01)
            in_time.append(time.monotonic() < deadline)
            pipe.write(b"d.png\n")

    writer = threading.Thread(target=write)
    with open(reading) as stdin:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "argv", ["patchcore", "predict", str(model), "-", "--out", "out", "--device", "cpu"])
        writer.start()
        with pytest.raises(SystemExit) as ended:
            main()
        writer.join()
    assert not ended.value.code, capsys.readouterr().err
    assert in_time == [True]
    assert [record["path"] for record in records()] == ["good.png", "bad.png"]


def test_frames_of_videos(images: Path, model: Path, detector: pp.Detector) -> None:
    (images / "line").mkdir()
    write_video(Path("line/v.avi"), [draw_part(seed=number, defect=number == 4) for number in range(7)])
    (images / "cut.avi").write_bytes(b"no video")
    ended = predict(model, "good.png", "line/v.avi", "cut.avi", "bad.png", "--frame-step", 2)
    assert ended.exit_code == 1
    assert "patchcore: cut.avi: " in ended.stderr
    assert "1 of 7 images" in ended.stderr
    assert "scoring images: 7/7" in ended.stderr
    lines = records()
    names = ["good.png", *(f"line/v.avi#{number}" for number in (0, 2, 4, 6)), "bad.png"]
    assert [record["path"] for record in lines] == names
    assert "frame" not in lines[0]
    frames = lines[1:5]
    assert [(record["frame"], record["seconds"]) for record in frames] == [(0, 0.0), (2, 0.2), (4, 0.4), (6, 0.6)]
    expected = detector.predict([frame.pixels for frame in read_frames(Path("line/v.avi"), 2)])
    assert [record["score"] for record in frames] == pytest.approx([result.score for result in expected], rel=1e-4)
    assert max(frames, key=lambda record: record["score"])["frame"] == 4
    assert [record["map"] for record in frames] == [f"heat_maps/line_v_{number}.png" for number in (0, 2, 4, 6)]
    assert all((images / "out" / record["overlay"]).is_file() for record in lines)
    assert re.search(r"line/v\.avi#4 *$", ended.stdout, re.MULTILINE)
    (skipped,) = predict_files(detector, [Path("cut.avi")], on_error="skip")
    assert isinstance(skipped.outcome, ImageError)
    assert skipped.outcome.path == "cut.avi"
    stopped = predict(model, "cut.avi", "good.png", "--on-error", "stop")
    assert isinstance(stopped.exception, ImageError)


def test_few_frames_are_in_memory(tmp_path: Path, detector: pp.Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = most = 0

    def release() -> None:
        nonlocal alive
        alive -= 1

    def read_many(path: Path, step: int) -> Iterator[Frame]:
        nonlocal alive, most
        for number in range(100):
            pixels = draw_part(seed=number)
            weakref.finalize(pixels, release)
            alive += 1
            most = max(most, alive)
            yield Frame(number, 0.0, pixels)

    monkeypatch.setattr("patchcore_plugin.inference.runner.read_frames", read_many)
    numbers = [result.extra["frame"] for result in predict_files(detector, [tmp_path / "v.mp4"])]
    assert numbers == list(range(100))
    assert most < 40  # four batches of 8, two of them waiting, and what passes from one to the next
