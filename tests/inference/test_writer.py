"""What is written of each image that is judged: above all, under which names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from patchcore_plugin.errors import ResultsError
from patchcore_plugin.inference.polling import Identity
from patchcore_plugin.inference.watch import Watch, picture_name
from patchcore_plugin.inference.writer import BYTES, ResultsWriter
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.prediction import Prediction
from tests.commands import json_lines

CALIBRATION = Calibration(threshold=1.0, source="made up", map_scale=(0.0, 4.0), scores=(0.5,))


def found(path: str | None) -> Prediction:
    return Prediction.against(CALIBRATION, path, (2, 3), 2.0, np.ones((2, 3), np.float32), None)


def written(folder: Path, *paths: str | None) -> list[str]:
    """Return what the pictures of images are called."""
    with ResultsWriter(folder, (0.0, 4.0)) as writer:
        maps = [Path(writer.write(found(path), None)["map"]) for path in paths]
    assert all((folder / each).is_file() for each in maps)
    assert {each.parent.name for each in maps} <= {"heat_maps"}
    assert len({str(each).casefold() for each in maps}) == len(paths)
    return [each.stem for each in maps]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/1.png", "b/1.png"], ["a_1", "b_1"]),
        (["x/a/1.png", "y/a/1.png", "y/A/1.png", "y/a/1.tif"], ["a_1", "a_1-2", "A_1-3", "a_1-4"]),
        ([None, None], ["image", "image-2"]),
        (["1.png", "./1.png"], ["1", "1-2"]),
        # Hidden pictures are found by nobody.
        (["../1.png", ".cache/2.png", ".a/.3.png"], ["1", "cache_2", "a_.3"]),
        # The same letter to file systems that compare what is seen, and to those that compare bytes.
        (["a/\u00e9.png", "a/e\u0301.png"], ["a_\u00e9", "a_\u00e9-2"]),
        (["a b/<c>&'d'.png", "=1+1/-x.png", "写/真\n.png"], ["a_b__c_d_", "_1_1_-x", "写_真_"]),
        ([os.fsdecode(b"a/\xff.png")], ["a__"]),
    ],
)
def test_names_of_pictures_are_plain_and_told_apart(tmp_path: Path, paths: list[str | None], names: list[str]) -> None:
    assert written(tmp_path, *paths) == names


@pytest.mark.parametrize("letter", ["x", "\u00fc", "写", "\U00020000"])
def test_the_longest_names_can_be_written(tmp_path: Path, letter: str) -> None:
    longest = letter * (250 // len(letter.encode()))
    names = written(tmp_path, *(f"{folder}{longest}/{longest}.png" for folder in "abc"))
    assert all(50 <= len(name.encode()) <= BYTES + len("-3") for name in names)
    assert set(names[0]) == {letter}


def test_a_watch_tells_the_longest_names_apart(tmp_path: Path) -> None:
    paths = [f"{'写' * 80}/{'真' * 80}{number}.png" for number in (1, 2)]
    names = []
    for path in paths:
        with ResultsWriter(tmp_path, (0.0, 4.0), append=True) as writer:
            names.append(writer.write(found(path), None, name=picture_name(Identity(path, 1, 2)))["map"])
    assert len(set(names)) == 2
    assert all((tmp_path / name).is_file() for name in names)


def test_a_line_holds_any_name_and_can_be_read_by_any_program(tmp_path: Path) -> None:
    paths = [os.fsdecode(b"a/\xff.png"), "a\nb/\u2028.png", '"<写>".png']
    written(tmp_path, *paths)
    lines = (tmp_path / "results.jsonl").read_bytes()
    assert lines.isascii()
    assert [json.loads(line)["path"] for line in lines.splitlines()] == paths


def test_a_watch_leaves_the_files_of_a_camera_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    mine, hidden = out / "overlays" / f".{'0a' * 16}.tmp", out / "in" / ".arriving.tmp"
    mine.mkdir(parents=True)
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"half")

    class Model:
        map_scale = (0.0, 1.0)

        def predict_each(self, images: object, /, *, on_error: str = "stop") -> object:
            return iter(())

    assert list(Watch(Model(), out / "in", out, every=0.01).run(until_idle=0)) == []  # type: ignore[arg-type]
    assert hidden.exists()
    assert not mine.exists()


def test_overlays_are_called_as_their_heat_maps(tmp_path: Path) -> None:
    image = np.full((2, 3, 3), 90, dtype=np.uint8)
    paths = ["a/cut/1.png", "b/cut/1.png", "b/Cut/1.png", "a/cut/1.jpg", "hole/1.png", "ä b/1?.png", "1.png"]
    with ResultsWriter(tmp_path, (0.0, 1.0)) as writer:
        records = [writer.write(found(path), image) for path in [*paths, None, None]]
    names = ["cut_1", "cut_1-2", "Cut_1-3", "cut_1-4", "hole_1", "ä_b_1_", "1", "image", "image-2"]
    assert [record["map"] for record in records] == [f"heat_maps/{name}.png" for name in names]
    assert [record["overlay"] for record in records] == [f"overlays/{name}.png" for name in names]
    assert all((tmp_path / record["overlay"]).is_file() for record in records)


def test_lines_are_on_disk_at_once_and_a_new_run_starts_afresh(tmp_path: Path) -> None:
    for _ in range(2):
        with ResultsWriter(tmp_path, (0.0, 1.0)) as writer:
            record = writer.write(found("1.png"), None, note="x")
            assert json_lines(tmp_path / "results.jsonl") == [record]
            assert (record["overlay"], record["note"]) == (None, "x")
    with pytest.raises(ValueError, match="with"):
        writer.write(found("1.png"), None)


def test_the_log_of_a_watch_is_not_overwritten(tmp_path: Path) -> None:
    with ResultsWriter(tmp_path, (0.0, 4.0), append=True) as writer:
        writer.write(found("a.png"), None, judged_at="2026-01-01T00:00:00.000+00:00")
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(ResultsError) as told, ResultsWriter(tmp_path, (0.0, 4.0)):
        pass
    assert str(told.value) == (
        f"{tmp_path / 'results.jsonl'}: the log of a watch, which would be lost; give another folder"
    )
    assert (tmp_path / "results.jsonl").read_bytes() == before
