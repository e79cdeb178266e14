"""A watched folder: each image is recorded once, whatever happens to it in the meantime."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from patchcore_plugin.data.images import read_image
from patchcore_plugin.errors import DatasetError
from patchcore_plugin.inference import Watch, WatchResult
from patchcore_plugin.inference.polling import FolderPoller
from tests.inference.watched_model import Brightness, fast_watch, png, put, records, watch_once


def test_each_image_is_recorded_once(folder: Path, out: Path) -> None:
    put(folder, "line 1/a.png", 200)
    put(folder, "b.PNG")
    results = watch_once(folder, out, every=0.05)
    lines = records(out)
    assert [result.record for result in results] == lines
    assert {line["path"]: line["is_anomalous"] for line in lines} == {"line 1/a.png": True, "b.PNG": False}
    for line in lines:
        status = (folder / line["path"]).stat()
        assert (line["size"], line["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["predicted_at"])
        assert read_image(out / line["map"]).shape == read_image(out / line["overlay"]).shape == (6, 8, 3)
    # The latency includes the time between the two polls.
    assert all(0.05 <= result.latency < 60 for result in results)
    assert watch_once(folder, out) == []
    put(folder, "c.png")
    assert [result.record["path"] for result in watch_once(folder, out)] == ["c.png"]
    assert len(records(out)) == 3


def test_oldest_image_comes_first(folder: Path, out: Path) -> None:
    for name, seconds in (("a.png", 3), ("b.png", 1), ("c.png", 2)):
        os.utime(put(folder, name), (seconds, seconds))
    assert [result.record["path"] for result in watch_once(folder, out)] == ["b.png", "c.png", "a.png"]


def test_other_files_are_ignored(folder: Path, tmp_path: Path) -> None:
    for name in (".a.png", "a.png.part", "a.png.tmp", "a.png~", "a.txt", ".hidden/a.png", "b/.hidden/a.png"):
        put(folder, name)
    (folder / "folder.png").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
        assert FolderPoller(folder, [], tmp_path, lambda line: None).current_version("pipe.png") is None
    put(folder, "good.png")
    out = folder / "b" / "results"  # its own pictures are images in the folder
    assert [result.record["path"] for result in watch_once(folder, out)] == ["good.png"]
    assert watch_once(folder, out) == []


def test_unsuitable_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(DatasetError, match=r"in: .*would be watched"):
        Watch(Brightness(), link, folder)
    with pytest.raises(DatasetError, match=r"nowhere: .*does not exist"):
        Watch(Brightness(), tmp_path / "nowhere", tmp_path / "out")


def test_incomplete_image_is_tried_again(folder: Path, out: Path) -> None:
    whole = png(size=(64, 64))
    path = folder / "slow.png"
    writes: list[int | None] = [0, 10, None, None, None, len(whole) - 1, None, None, len(whole)]

    def stop() -> bool:
        size = writes.pop(0) if writes else None
        if size is not None:
            path.write_bytes(whole[:size])
        return False

    attempts: list[Path] = []
    watch = fast_watch(folder, out, Brightness(before_each=attempts.append), every=0, patience=60)
    (result,) = watch.run(until_idle=0, stop=stop)
    assert writes == []
    assert "error" not in result.record
    assert records(out) == [result.record]
    assert result.record["size"] == len(whole)
    # It was also read while incomplete.
    assert len(attempts) > 1


def test_image_that_changes_while_it_is_read_is_read_again(folder: Path, out: Path) -> None:
    path = put(folder, "a.png", 40)
    values = [60, 80]

    def change(path: Path) -> None:
        if values:
            path.write_bytes(png(values.pop(0), size=(6, 8 + len(values))))

    (result,) = watch_once(folder, out, Brightness(before_each=change))
    assert result.record["size"] == path.stat().st_size
    assert result.record["score"] == pytest.approx(80 / 255)
    assert records(out) == [result.record]


def test_unreadable_image_is_recorded_once_with_its_error(folder: Path, out: Path) -> None:
    bad = folder / "bad.png"
    bad.write_bytes(b"no image")
    start = time.monotonic()
    (result,) = watch_once(folder, out, patience=0.2)
    assert time.monotonic() - start >= 0.2
    assert set(result.record) == {"path", "size", "mtime_ns", "predicted_at", "error"}
    error = result.record["error"]
    assert error.startswith(f"{bad}: ")
    assert "--on-error" not in error
    assert watch_once(folder, out) == []
    assert records(out) == [result.record]
    bad.write_bytes(png())
    (again,) = watch_once(folder, out)
    assert "error" not in again.record
    assert len(records(out)) == 2


def test_rewritten_file_is_a_new_image(folder: Path, out: Path) -> None:
    path = put(folder, "a.png", 40)
    (first,) = watch_once(folder, out)
    path.write_bytes(png(200))
    os.utime(path, ns=(1, first.record["mtime_ns"] + 1))
    (second,) = watch_once(folder, out)
    assert [line["is_anomalous"] for line in records(out)] == [False, True]
    assert first.record["map"] != second.record["map"]
    assert len(list((out / "heat_maps").iterdir())) == 2


def test_image_deleted_before_prediction_is_ignored(folder: Path, out: Path) -> None:
    put(folder, "a.png")
    assert watch_once(folder, out, Brightness(before_each=Path.unlink)) == []
    assert records(out) == []


def test_model_without_maps_has_no_pictures(folder: Path, out: Path) -> None:
    put(folder, "a.png")
    (result,) = watch_once(folder, out, Brightness(maps=False))
    assert (result.record["map"], result.record["overlay"]) == (None, None)
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == ["results.jsonl"]


def test_watch_stops_when_idle(folder: Path, out: Path) -> None:
    put(folder, "a.png")
    start = time.monotonic()
    times: dict[str, float] = {}
    for result in fast_watch(folder, out).run(until_idle=0.3):
        times[result.record["path"]] = time.monotonic() - start
        if len(times) == 1:
            put(folder, "b.png")
    assert list(times) == ["a.png", "b.png"]
    assert time.monotonic() - start >= times["b.png"] + 0.3


def test_watch_stops_after_the_current_image(folder: Path, out: Path) -> None:
    for number in range(5):
        put(folder, f"{number}.png")
    results: list[WatchResult] = []
    for result in fast_watch(folder, out).run(stop=lambda: len(results) == 2):
        results.append(result)
    assert len(records(out)) == 2
    assert len(watch_once(folder, out)) == 3
    # It also stops while it waits for the next poll.
    start, answers = time.monotonic(), iter([False] * 3)
    assert list(fast_watch(folder, out, every=60).run(stop=lambda: next(answers, True))) == []
    assert time.monotonic() - start < 30


def test_watched_image_is_decoded_once(folder: Path, out: Path) -> None:
    def damage(path: Path) -> None:
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    put(folder, "a.png")
    # A second read would fail.
    (result,) = watch_once(folder, out, Brightness(after_each=damage))
    assert read_image(out / result.record["overlay"]).shape == (6, 8, 3)


def test_watch_deletes_only_leftovers_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    leftover, arriving = out / "overlays" / f".{'0a' * 16}.tmp", out / "in" / ".arriving.tmp"
    leftover.mkdir(parents=True)
    arriving.parent.mkdir(parents=True)
    arriving.write_bytes(b"half")
    assert watch_once(out / "in", out) == []
    assert arriving.exists()
    assert not leftover.exists()
