"""The files of a watch are its only state: wherever it is interrupted, no image is lost or recorded twice."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from patchcore_plugin.data import images as images
from patchcore_plugin.errors import ResultsError
from patchcore_plugin.inference import ResultsWriter
from patchcore_plugin.inference.journal import recover_records
from patchcore_plugin.inference.polling import FileVersion
from patchcore_plugin.inference.watch import versioned_picture_name
from tests.inference.watched_model import fast_watch, put, records, require_one_result_per_image, watch_once


def test_incomplete_last_line_is_truncated(folder: Path, out: Path) -> None:
    for name in ("a.png", "b.png"):
        put(folder, name)
    watch_once(folder, out)
    file = out / "results.jsonl"
    first, second = file.read_bytes().splitlines(keepends=True)
    for torn in (second[:-1], second[:40], b"{", b"\0" * 50, second[:9] + b"\n", b'"text"\n'):
        file.write_bytes(first + torn)
        (result,) = watch_once(folder, out)
        assert {"a.png", "b.png"} == {line["path"] for line in records(out)}
        assert result.record == records(out)[1]
    file.write_bytes(second[:-1])
    assert len(watch_once(folder, out)) == 2


def test_pictures_of_a_repeated_image_are_replaced(folder: Path, out: Path) -> None:
    put(folder, "a.png")
    put(folder, "a/a.png")
    watch_once(folder, out)
    pictures = {path.name for path in (out / "overlays").iterdir()}
    assert len(pictures) == 2
    (out / "results.jsonl").write_bytes(b"")
    (out / "overlays" / f".{'0123' * 8}.tmp").mkdir()
    watch_once(folder, out)
    assert {path.name for path in (out / "overlays").iterdir()} == pictures


def test_picture_names_differ_for_long_and_invalid_paths() -> None:
    names = [
        versioned_picture_name(FileVersion(path, 1, 2))
        for path in ("x" * 300 + "/1.png", "x" * 300 + "/2.png", "\udcff.png")
    ]
    assert len({name[-13:] for name in names}) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"path"\n{"path": "a.png"}\n', "damaged"),
        (b'[]\n{"path": "a.png"}\n', "damaged"),
        (b'{"path": "a.png", "score": 1}\n', "not written by a watch"),
        (b'{"path": "a.png", "size": null, "mtime_ns": 2}\n', "not written by a watch"),
    ],
)
def test_foreign_results_are_refused_and_unchanged(content: bytes, reason: str, folder: Path, out: Path) -> None:
    out.mkdir()
    file = out / "results.jsonl"
    file.write_bytes(content)
    with pytest.raises(ResultsError, match=re.escape(f"{file}, line 1: {reason}")):
        watch_once(folder, out)
    assert file.read_bytes() == content


def test_missing_file_has_no_records(tmp_path: Path) -> None:
    assert list(recover_records(tmp_path / "none.jsonl")) == []
    assert list(tmp_path.iterdir()) == []


def test_second_watch_of_an_output_folder_is_refused(folder: Path, out: Path) -> None:
    put(folder, "a.png")
    first = fast_watch(folder, out).run()
    next(first)
    with pytest.raises(ResultsError, match=r"out: another watch"):
        watch_once(folder, out)
    first.close()
    assert watch_once(folder, out) == []


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be opened")
def test_folders_and_lines_are_synced(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def record_sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        name = next(
            path.name for path in (out, out.parent, out / "results.jsonl") if os.path.samestat(path.stat(), status)
        )
        synced.append((name, status.st_size if name == "results.jsonl" else 0))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record_sync)
    for name in ("a.png", "b.png"):
        put(folder, name)
    watch_once(folder, out)
    ends = np.cumsum([len(line) for line in (out / "results.jsonl").read_bytes().splitlines(keepends=True)])
    assert synced == [("out", 0), (out.parent.name, 0), *(("results.jsonl", end) for end in ends)]


class KillError(BaseException):
    """Stands for the end of the process: no `except Exception` stops it."""


class TornFile:
    """A file that receives only the beginning of the text during which the process is killed."""

    def __init__(self, file: IO[str], step: Callable[[], None], share: float) -> None:
        self._file, self._step, self._share = file, step, share

    def write(self, text: str) -> None:
        try:
            self._step()
        except KillError:
            self._file.write(text[: int(self._share * len(text))])
            raise
        self._file.write(text)

    def flush(self) -> None:
        self._step()
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()


@pytest.mark.parametrize("seed", range(8))
def test_no_image_is_lost_or_repeated_after_a_failure_at_any_step(
    seed: int, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    remaining = 0
    opened, write_png, fsync = ResultsWriter._open_lines, images.write_png, os.fsync

    def step() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            raise KillError

    def with_steps(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            step()
            result = function(*arguments)
            step()
            return result

        return run

    monkeypatch.setattr(images, "write_png", with_steps(write_png))
    monkeypatch.setattr(os, "fsync", with_steps(fsync))
    monkeypatch.setattr(ResultsWriter, "_open_lines", lambda self: TornFile(opened(self), step, rng.random()))
    kills = 0
    for number in range(12):
        put(folder, f"{number}.png", 20 * number)
    (folder / "12.png").write_bytes(b"no image")
    while True:
        remaining = rng.randint(1, 30)
        try:
            watch_once(folder, out, every=0)
            break
        except KillError:
            kills += 1
    remaining = -1
    assert kills > 2
    require_one_result_per_image(folder, out)
    assert watch_once(folder, out) == []
