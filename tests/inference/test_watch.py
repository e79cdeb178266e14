"""A watched folder: each image is judged once, whatever happens to it meanwhile."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from patchcore_plugin.data import images as images
from patchcore_plugin.errors import DatasetError
from patchcore_plugin.inference.polling import Arrivals
from patchcore_plugin.inference.watch import Done, Watch
from tests.inference.watched_model import Brightness, once, png, put, quick, records


def test_each_image_is_judged_once_and_recorded(folder: Path, out: Path) -> None:
    put(folder, "line 1/a.png", 200)
    put(folder, "b.PNG")
    done = once(folder, out, every=0.05)
    lines = records(out)
    assert [each.record for each in done] == lines
    assert {each["path"]: each["is_anomalous"] for each in lines} == {"line 1/a.png": True, "b.PNG": False}
    for line in lines:
        about = (folder / line["path"]).stat()
        assert (line["size"], line["mtime_ns"]) == (about.st_size, about.st_mtime_ns)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["judged_at"])
        assert images.read_image(out / line["map"]).shape == images.read_image(out / line["overlay"]).shape == (6, 8, 3)
    # An image is not taken for whole at first sight, and the wait counts.
    assert all(0.05 <= each.seconds < 5 for each in done)
    assert once(folder, out) == []
    put(folder, "c.png")
    assert [each.record["path"] for each in once(folder, out)] == ["c.png"]
    assert len(records(out)) == 3


def test_the_oldest_comes_first(folder: Path, out: Path) -> None:
    for name, seconds in (("a.png", 3), ("b.png", 1), ("c.png", 2)):
        os.utime(put(folder, name), (seconds, seconds))
    assert [each.record["path"] for each in once(folder, out)] == ["b.png", "c.png", "a.png"]


def test_what_is_no_image_is_left_alone(folder: Path, tmp_path: Path) -> None:
    for name in (".a.png", "a.png.part", "a.png.tmp", "a.png~", "a.txt", ".hidden/a.png", "b/.hidden/a.png"):
        put(folder, name)
    (folder / "folder.png").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
        assert Arrivals(folder, [], tmp_path, lambda line: None).identify("pipe.png") is None
    put(folder, "good.png")
    out = folder / "b" / "results"  # its own pictures are images in the folder
    assert [each.record["path"] for each in once(folder, out)] == ["good.png"]
    assert once(folder, out) == []


def test_folders_that_cannot_be_watched(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(DatasetError, match=r"in: its pictures would be watched too; give another folder for the res"):
        Watch(Brightness(), link, folder)
    with pytest.raises(DatasetError, match=r"nowhere: no such folder to watch; check the path"):
        Watch(Brightness(), tmp_path / "nowhere", tmp_path / "out")


def test_a_image_that_is_being_written_is_waited_for(folder: Path, out: Path) -> None:
    whole = png(size=(64, 64))
    path = folder / "slow.png"
    writes: list[int | None] = [0, 10, None, None, None, len(whole) - 1, None, None, len(whole)]

    def stop() -> bool:
        size = writes.pop(0) if writes else None
        if size is not None:
            path.write_bytes(whole[:size])
        return False

    tried: list[Path] = []
    watch = quick(folder, out, Brightness(before_each=tried.append), every=0, patience=60)
    (done,) = watch.run(until_idle=0, stop=stop)
    assert writes == []
    assert "error" not in done.record
    assert records(out) == [done.record]
    assert done.record["size"] == len(whole)
    # It was read while it stood still too, and found to be cut short.
    assert len(tried) > 1


def test_what_changes_while_it_is_read_is_read_again(folder: Path, out: Path) -> None:
    path = put(folder, "a.png", 40)
    values = [60, 80]

    def change(path: Path) -> None:
        if values:
            path.write_bytes(png(values.pop(0), size=(6, 8 + len(values))))

    (done,) = once(folder, out, Brightness(before_each=change))
    assert done.record["size"] == path.stat().st_size
    assert done.record["score"] == pytest.approx(80 / 255)
    assert records(out) == [done.record]


def test_a_image_that_cannot_be_read_is_told_once_with_the_reason(folder: Path, out: Path) -> None:
    bad = folder / "bad.png"
    bad.write_bytes(b"no image")
    start = time.monotonic()
    (done,) = once(folder, out, patience=0.2)
    assert time.monotonic() - start >= 0.2
    assert set(done.record) == {"path", "size", "mtime_ns", "judged_at", "error"}
    assert re.fullmatch(
        rf"{re.escape(str(bad))}: not a readable image \(.+\); replace or remove it", done.record["error"]
    )
    assert once(folder, out) == []
    assert records(out) == [done.record]
    bad.write_bytes(png())
    (again,) = once(folder, out)
    assert "error" not in again.record
    assert len(records(out)) == 2


def test_a_file_that_is_written_anew_is_another_image(folder: Path, out: Path) -> None:
    path = put(folder, "a.png", 40)
    (first,) = once(folder, out)
    path.write_bytes(png(200))
    os.utime(path, ns=(1, first.record["mtime_ns"] + 1))
    (second,) = once(folder, out)
    assert [each["is_anomalous"] for each in records(out)] == [False, True]
    assert first.record["map"] != second.record["map"]
    assert len(list((out / "heat_maps").iterdir())) == 2


def test_a_image_that_is_gone_before_it_was_judged_is_forgotten(folder: Path, out: Path) -> None:
    put(folder, "a.png")
    assert once(folder, out, Brightness(before_each=Path.unlink)) == []
    assert records(out) == []


def test_a_model_without_maps_has_no_pictures(folder: Path, out: Path) -> None:
    put(folder, "a.png")
    (done,) = once(folder, out, Brightness(maps=False))
    assert (done.record["map"], done.record["overlay"]) == (None, None)
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == ["results.jsonl"]


def test_it_ends_when_nothing_comes_any_more(folder: Path, out: Path) -> None:
    put(folder, "a.png")
    start = time.monotonic()
    found = []
    for done in quick(folder, out).run(until_idle=0.3):
        found.append((done.record["path"], time.monotonic() - start))
        if len(found) == 1:
            put(folder, "b.png")
    assert [name for name, _ in found] == ["a.png", "b.png"]
    assert time.monotonic() - start >= found[1][1] + 0.3


def test_it_ends_after_the_image_at_hand_when_it_is_told_to(folder: Path, out: Path) -> None:
    for number in range(5):
        put(folder, f"{number}.png")
    found: list[Done] = []
    for done in quick(folder, out).run(stop=lambda: len(found) == 2):
        found.append(done)
    assert len(records(out)) == 2
    assert len(once(folder, out)) == 3
    # While it waits it does not sleep through.
    start, asked = time.monotonic(), iter([False] * 3)
    assert list(quick(folder, out, every=60).run(stop=lambda: next(asked, True))) == []
    assert time.monotonic() - start < 5
