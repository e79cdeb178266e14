"""What predict takes beside images: lists on standard input, as they are written, and videos."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner, Result

import patchcore_plugin as pp
from patchcore_plugin.cli import app, main
from patchcore_plugin.data.datasets.files import read_paths
from patchcore_plugin.data.video import Frame, read_frames
from patchcore_plugin.errors import ImageError
from patchcore_plugin.inference.runner import predict_files

Image = npt.NDArray[np.uint8]
GOOD, SPOT = (60, 120, 200), (250, 10, 10)
"""RGB of the part, and of its defect."""


def part(*, defect: bool = False, size: tuple[int, int] = (48, 64), seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), GOOD, dtype=np.uint8)
    image[::8] += 20
    if defect:
        image[size[0] // 2 : size[0] // 2 + 14, size[1] // 2 : size[1] // 2 + 14] = SPOT
    noisy: Image = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    return noisy


def write_image(path: Path, image: Image) -> Path:
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def write_video(path: Path, frames: Iterable[Image], *, code: str = "MJPG", size: tuple[int, int] = (48, 64)) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10, (size[1], size[0]))  # type: ignore[attr-defined]
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


@pytest.fixture(scope="module")
def detector() -> pp.Detector:
    return pp.Detector.from_recipe(
        "patchcore",
        backbone="efficientnet-lite0",
        preprocessing={"size": [64, 64]},
        sampler={"name": "random", "ratio": 0.2},
        device="cpu",
    ).fit([part(seed=seed) for seed in range(6)])


@pytest.fixture(scope="module")
def model(detector: pp.Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fitted") / "part.safetensors"
    detector.save(path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a folder with two images."""
    write_image(tmp_path / "good.png", part(seed=20))
    write_image(tmp_path / "bad.png", part(seed=21, defect=True))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(model: Path, *arguments: object, given: bytes = b"") -> Result:
    words = ["predict", str(model), *map(str, arguments), "--out", "out", "--device", "cpu"]
    return CliRunner().invoke(app, words, input=given)


def records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out/results.jsonl").read_text(encoding="utf-8").splitlines()]


# Lists


@pytest.mark.parametrize(
    ("given", "null", "expected"),
    [
        (b"a.png\nb/c.png\n", False, ["a.png", "b/c.png"]),
        (b"\xef\xbb\xbf a.png \r\n\n# no\nb.png", False, ["a.png", "b.png"]),
        (b"", False, []),
        (b"\n\n", False, []),
        (b" a\n.png\0# b.png\0\0c.png", True, [" a\n.png", "# b.png", "c.png"]),
        (b"a\xff.png\n", False, [os.fsdecode(b"a\xff.png")]),
    ],
)
def test_paths_of_a_list(given: bytes, null: bool, expected: list[str]) -> None:
    class Slow(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return super().read1(3)

    for stream in (io.BytesIO(given), Slow(given)):
        found = list(read_paths(stream, null=null))
        assert [str(path) for paths in found for path in paths] == expected
        assert all(found)


def test_a_list_on_standard_input(here: Path, model: Path) -> None:
    ended = predict(model, "-", given=b"good.png\n\n# a comment\nbad.png\n")
    assert ended.exit_code == 0, ended.output
    assert [record["path"] for record in records()] == ["good.png", "bad.png"]
    assert "judging images: 2/2\n" in ended.stderr
    by_name = records()
    ended = predict(model, here / "good.png", "-", "--null", given=b"bad.png\0")
    assert ended.exit_code == 0, ended.output
    assert [record["score"] for record in records()] == [record["score"] for record in by_name]
    ended = predict(model, "-")
    assert ended.exit_code == 0, ended.output
    assert records() == []


def test_a_list_with_a_image_that_is_not_there(model: Path, here: Path) -> None:
    ended = predict(model, "-", "--json", given=b"good.png\nnone.png\nbad.png\n")
    assert ended.exit_code == 1
    document = json.loads(ended.stdout)
    assert document["results"] == records()
    assert [record["path"] for record in records()] == ["good.png", "bad.png"]
    line = "none.png: no such file; check the path"
    assert document["failed"] == [line]
    assert ended.stderr.endswith(f"patchcore: {line}\npatchcore: 1 of 3 images were skipped; all others are done\n")
    stopped = predict(model, "-", "--on-error", "stop", given=b"none.png\ngood.png\n")
    assert isinstance(stopped.exception, ImageError)


def test_results_come_while_the_list_is_still_being_written(
    here: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = os.pipe()
    in_time: list[bool] = []

    def write() -> None:
        results, deadline = here / "out" / "results.jsonl", time.monotonic() + 20
        with os.fdopen(theirs, "wb", buffering=0) as pipe:
            pipe.write(b"good.png\nba")
            while not (results.exists() and results.stat().st_size) and time.monotonic() < deadline:
                time.sleep(0.01)
            in_time.append(time.monotonic() < deadline)
            pipe.write(b"d.png\n")

    writer = threading.Thread(target=write)
    with open(ours) as stdin:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "argv", ["patchcore", "predict", str(model), "-", "--out", "out", "--device", "cpu"])
        writer.start()
        with pytest.raises(SystemExit) as ended:
            main()
        writer.join()
    assert not ended.value.code, capsys.readouterr().err
    assert in_time == [True]
    assert [record["path"] for record in records()] == ["good.png", "bad.png"]


# Videos


@pytest.mark.parametrize(
    ("name", "code"), [("v.avi", "MJPG"), ("v.MKV", "MJPG"), ("v.mp4", "mp4v"), ("v%02d.mov", "mp4v")]
)
def test_frames_of_a_video(name: str, code: str, tmp_path: Path) -> None:
    video = write_video(tmp_path / name, [part(defect=number == 3) for number in range(7)], code=code)
    frames = list(read_frames(video))
    assert [frame.number for frame in frames] == list(range(7))
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in range(7)])
    for frame in frames:
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.shape == (48, 64, 3)
        assert frame.pixels.flags.c_contiguous
        wanted = SPOT if frame.number == 3 else GOOD
        assert np.abs(frame.pixels[31, 39].astype(int) - wanted).max() < 40  # it is RGB
    every = list(read_frames(video, 3))
    assert [(frame.number, round(frame.seconds, 3)) for frame in every] == [(0, 0.0), (3, 0.3), (6, 0.6)]
    assert np.array_equal(every[1].pixels, frames[3].pixels)


def test_a_video_is_turned_upright(tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[:24] = 255
    video = write_video(tmp_path / "v.mp4", [image] * 2, code="mp4v")
    data = bytearray(video.read_bytes())
    matrix = data.index(b"tkhd") + 44
    assert struct.unpack_from(">9i", data, matrix) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, matrix, 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)  # by 90 degrees, clockwise
    video.write_bytes(data)
    frame = next(read_frames(video))
    assert frame.pixels.shape == (64, 48, 3)
    assert frame.pixels[:, 40:].min() > 200
    assert frame.pixels[:, :8].max() < 50


def test_what_is_no_video(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(ImageError) as told:
            next(read_frames(path))
        return str(told.value)

    text, empty = tmp_path / "text.avi", write_video(tmp_path / "empty.avi", [])
    text.write_bytes(b"no video")
    # The name is no pattern for pictures beside it.
    pattern = tmp_path / "v%d.mp4"
    pattern.write_bytes(b"no video")
    write_image(tmp_path / "0.png", part()).rename(tmp_path / "v0.mp4")
    for path in (text, empty, pattern):
        assert said(path) == (
            f"{path}: not a readable video (no frame of it can be decoded); "
            "convert it to MP4 or AVI, or pass --on-error skip"
        )
    none = tmp_path / "none.mp4"
    assert said(none) == f"{none}: no such file; check the path, or pass --on-error skip"
    assert said(tmp_path) == f"{tmp_path}: no such file; check the path, or pass --on-error skip"
    assert said(Path("rtsp://127.0.0.1/v.mp4")).endswith("v.mp4: no such file; check the path, or pass --on-error skip")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_unicode_is_told(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/v\xff.avi"))
    write_video(tmp_path / "v.avi", [part()]).rename(path)
    with pytest.raises(ImageError, match=r"v\\udcff\.avi': a video's path must be valid Unicode; rename it$"):
        next(read_frames(path))


def test_predict_judges_the_frames_of_videos(here: Path, model: Path, detector: pp.Detector) -> None:
    (here / "line").mkdir()
    frames = [part(seed=number, defect=number == 4) for number in range(7)]
    write_video(Path("line/v.avi"), frames)
    (here / "cut.avi").write_bytes(b"no video")
    ended = predict(model, "good.png", "line/v.avi", "cut.avi", "bad.png", "--frame-step", 2)
    assert ended.exit_code == 1
    said = ended.stderr.splitlines()
    assert said[-2].startswith("patchcore: cut.avi: not a readable video (")
    assert said[-1] == "patchcore: 1 of 7 images were skipped; all others are done"
    assert "judging images: 7/7" in said
    found = records()
    names = ["good.png", *(f"line/v.avi#{number}" for number in (0, 2, 4, 6)), "bad.png"]
    assert [record["path"] for record in found] == names
    assert [(record["frame"], record["seconds"]) for record in found[1:5]] == [(0, 0.0), (2, 0.2), (4, 0.4), (6, 0.6)]
    assert "frame" not in found[0]
    judged = detector.predict([frame.pixels for frame in read_frames(Path("line/v.avi"), 2)])
    assert [record["score"] for record in found[1:5]] == pytest.approx([each.score for each in judged], rel=1e-4)
    assert max(found[1:5], key=lambda record: record["score"])["frame"] == 4
    assert [record["map"] for record in found[1:5]] == [f"heat_maps/line_v_{number}.png" for number in (0, 2, 4, 6)]
    assert all((here / "out" / record["overlay"]).is_file() for record in found)
    assert re.search(r"line/v\.avi#4 *$", ended.stdout, re.MULTILINE)
    (skipped,) = predict_files(detector, [Path("cut.avi")], on_error="skip")
    assert isinstance(skipped.outcome, ImageError)
    assert skipped.outcome.path == "cut.avi"
    stopped = predict(model, "cut.avi", "good.png", "--on-error", "stop")
    assert isinstance(stopped.exception, ImageError)


def test_frames_do_not_pile_up(tmp_path: Path, detector: pp.Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def many(path: Path, step: int) -> Iterator[Frame]:
        nonlocal alive, most
        for number in range(100):
            pixels = part(seed=number)
            weakref.finalize(pixels, gone)
            alive += 1
            most = max(most, alive)
            yield Frame(number, 0.0, pixels)

    monkeypatch.setattr("patchcore_plugin.inference.runner.read_frames", many)
    numbers = [result.extra["frame"] for result in predict_files(detector, [tmp_path / "v.mp4"])]
    assert numbers == list(range(100))
    assert most < 40
