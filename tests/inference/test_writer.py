"""Results of a run: lines, and names of pictures."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from patchcore_plugin.errors import ResultsError
from patchcore_plugin.inference import ResultsWriter
from patchcore_plugin.inference.polling import FileVersion
from patchcore_plugin.inference.watch import versioned_picture_name
from patchcore_plugin.inference.writer import MAX_BYTES
from tests.commands import json_lines
from tests.inference.predictions import FakePrediction


def prediction(path: str | None) -> FakePrediction:
    return FakePrediction(path, 2.0, np.ones((2, 3), np.float32), size=(2, 3))


def names_of_pictures(folder: Path, *paths: str | None) -> list[str]:
    with ResultsWriter(folder, (0.0, 4.0)) as writer:
        maps = [Path(writer.write(prediction(path))["map"]) for path in paths]
    assert all((folder / path).is_file() for path in maps)
    assert {path.parent.name for path in maps} <= {"heat_maps"}
    assert len({str(path).casefold() for path in maps}) == len(paths)
    return [path.stem for path in maps]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/1.png", "b/1.png"], ["a_1", "b_1"]),
        (["x/a/1.png", "y/a/1.png", "y/A/1.png", "y/a/1.tif"], ["a_1", "a_1-2", "A_1-3", "a_1-4"]),
        (["a/v.mp4#0", "a/v.mp4#20", "a#1/v#2.png"], ["a_v_0", "a_v_20", "a_1_v_2"]),
        ([None, None], ["image", "image-2"]),
        (["1.png", "./1.png"], ["1", "1-2"]),
        # No name starts with a dot, which would hide the file.
        (["../1.png", ".cache/2.png", ".a/.3.png"], ["1", "cache_2", "a_.3"]),
        # The same letter, composed and decomposed: equal on some file systems.
        (["a/\u00e9.png", "a/e\u0301.png"], ["a_\u00e9", "a_\u00e9-2"]),
        (["a b/<c>&'d'.png", "=1+1/-x.png", "写/真\n.png"], ["a_b__c_d_", "_1_1_-x", "写_真_"]),
        ([os.fsdecode(b"a/\xff.png")], ["a__"]),
    ],
)
def test_names_are_plain_and_unique(tmp_path: Path, paths: list[str | None], names: list[str]) -> None:
    assert names_of_pictures(tmp_path, *paths) == names


@pytest.mark.parametrize("letter", ["x", "\u00fc", "写", "\U00020000"])
def test_long_names_are_shortened(tmp_path: Path, letter: str) -> None:
    longest = letter * (250 // len(letter.encode()))
    names = names_of_pictures(tmp_path, *(f"{folder}{longest}/{longest}.png" for folder in "abc"))
    assert all(50 <= len(name.encode()) <= MAX_BYTES + len("-3") for name in names)
    assert set(names[0]) == {letter}


def test_long_names_of_a_watch_stay_unique(tmp_path: Path) -> None:
    maps = set()
    for path in [f"{'写' * 80}/{'真' * 80}{number}.png" for number in (1, 2)]:
        with ResultsWriter(tmp_path, (0.0, 4.0), append=True) as writer:
            name = versioned_picture_name(FileVersion(path, 1, 2))
            maps.add(writer.write(prediction(path), name=name)["map"])
    assert len(maps) == 2
    assert all((tmp_path / path).is_file() for path in maps)


def test_any_path_is_written_as_ascii_json(tmp_path: Path) -> None:
    paths = [os.fsdecode(b"a/\xff.png"), "a\nb/\u2028.png", '"<写>".png']
    names_of_pictures(tmp_path, *paths)
    lines = (tmp_path / "results.jsonl").read_bytes()
    assert lines.isascii()
    assert [json.loads(line)["path"] for line in lines.splitlines()] == paths


def test_overlay_has_the_name_of_its_heat_map(tmp_path: Path) -> None:
    pixels = np.full((2, 3, 3), 90, dtype=np.uint8)
    with ResultsWriter(tmp_path, (0.0, 1.0)) as writer:
        records = [writer.write(replace(prediction(path), pixels=pixels)) for path in ["b/1.png", "b/1.jpg", None]]
    assert [record["map"] for record in records] == [f"heat_maps/{name}.png" for name in ("b_1", "b_1-2", "image")]
    for record in records:
        assert Path(record["overlay"]) == Path("overlays", Path(record["map"]).name)
        assert (tmp_path / record["overlay"]).is_file()


def test_only_defective_images_are_explained(tmp_path: Path) -> None:
    pixels = np.full((2, 3, 3), 90, dtype=np.uint8)
    with ResultsWriter(tmp_path, (0.0, 1.0), explain=lambda explained: explained.pixels) as writer:
        bad, good = (
            writer.write(replace(prediction(f"{anomalous}.png"), pixels=pixels, is_anomalous=anomalous))
            for anomalous in (True, False)
        )
        unexplained = writer.write(prediction("without-pixels.png"))
    assert (bad["why"], good["why"], unexplained["why"]) == ("why/True.png", None, None)
    assert (tmp_path / bad["why"]).is_file()


def test_lines_are_flushed_and_a_new_run_replaces_them(tmp_path: Path) -> None:
    for _ in range(2):
        with ResultsWriter(tmp_path, (0.0, 1.0)) as writer:
            record = writer.write(prediction("1.png"), note="x")
            assert json_lines(tmp_path / "results.jsonl") == [record]
            assert (record["overlay"], record["note"]) == (None, "x")
    with pytest.raises(ValueError, match="with"):
        writer.write(prediction("1.png"))


def test_results_of_a_watch_are_not_replaced(tmp_path: Path) -> None:
    with ResultsWriter(tmp_path, (0.0, 4.0), append=True) as writer:
        writer.write(prediction("a.png"), **FileVersion("a.png", 1, 2)._asdict())
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(ResultsError, match=r"results\.jsonl: .*watch"), ResultsWriter(tmp_path, (0.0, 4.0)):
        pass
    assert (tmp_path / "results.jsonl").read_bytes() == before
