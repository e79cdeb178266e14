"""What a watch leaves on disk is its state: no image is lost or repeated, wherever the watch is killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from patchcore_plugin.data import images as images
from patchcore_plugin.errors import ResultsError
from patchcore_plugin.inference.journal import read_back
from patchcore_plugin.inference.polling import Identity
from patchcore_plugin.inference.watch import picture_name
from patchcore_plugin.inference.writer import ResultsWriter
from tests.inference.watched_model import Brightness, once, put, quick, records, require_one_result_each

ROOT = Path(__file__).parents[2]
KILLS = 20
IMAGES = 100


def test_what_a_killed_watch_left_is_cut_off(folder: Path, out: Path) -> None:
    for name in ("a.png", "b.png"):
        put(folder, name)
    once(folder, out)
    file = out / "results.jsonl"
    first, second = file.read_bytes().splitlines(keepends=True)
    for torn in (second[:-1], second[:40], b"{", b"\0" * 50, second[:9] + b"\n", b'"text"\n'):
        file.write_bytes(first + torn)
        (done,) = once(folder, out)
        assert {"a.png", "b.png"} == {each["path"] for each in records(out)}
        assert done.record == records(out)[1]
    file.write_bytes(second[:-1])
    assert len(once(folder, out)) == 2


def test_pictures_of_a_repeated_image_replace_its_own(folder: Path, out: Path) -> None:
    put(folder, "a.png")
    put(folder, "a/a.png")
    once(folder, out)
    pictures = {path.name for path in (out / "overlays").iterdir()}
    assert len(pictures) == 2
    (out / "results.jsonl").write_bytes(b"")
    (out / "overlays" / f".{'0123' * 8}.tmp").mkdir()
    once(folder, out)
    assert {path.name for path in (out / "overlays").iterdir()} == pictures


def test_names_of_pictures_are_told_apart_when_long_and_odd() -> None:
    names = [picture_name(Identity(path, 1, 2)) for path in ("x" * 300 + "/1.png", "x" * 300 + "/2.png", "\udcff.png")]
    assert len({name[-13:] for name in names}) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"path"\n{"path": "a.png"}\n',
            r", line 1: damaged, and not the last line, so that no killed run explains it; ",
        ),
        (b'[]\n{"path": "a.png"}\n', r", line 1: damaged"),
        (
            b'{"path": "a.png", "score": 1}\n',
            r", line 1: no image of a watch; move the file away, or give another folder$",
        ),
        (b'{"path": "a.png", "size": null, "mtime_ns": 2}\n', r", line 1: no image of a watch"),
    ],
)
def test_results_that_are_not_its_own_are_refused_and_left(
    content: bytes, message: str, folder: Path, out: Path
) -> None:
    out.mkdir()
    file = out / "results.jsonl"
    file.write_bytes(content)
    with pytest.raises(ResultsError, match=re.escape(str(file)) + message):
        once(folder, out)
    assert file.read_bytes() == content


def test_a_file_that_is_not_there_has_no_records(tmp_path: Path) -> None:
    assert list(read_back(tmp_path / "none.jsonl")) == []
    assert list(tmp_path.iterdir()) == []


def test_two_watches_do_not_write_into_one_folder(folder: Path, out: Path) -> None:
    put(folder, "a.png")
    first = quick(folder, out).run()
    next(first)
    with pytest.raises(ResultsError, match=r"out: another watch writes its results here; end it, or give this one an"):
        once(folder, out)
    first.close()
    assert once(folder, out) == []


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be opened")
def test_what_is_written_is_forced_onto_the_disk(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        about = os.fstat(descriptor)
        name = next(
            path.name for path in (out, out.parent, out / "results.jsonl") if os.path.samestat(path.stat(), about)
        )
        synced.append((name, about.st_size if name == "results.jsonl" else 0))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    for name in ("a.png", "b.png"):
        put(folder, name)
    once(folder, out)
    ends = np.cumsum([len(line) for line in (out / "results.jsonl").read_bytes().splitlines(keepends=True)])
    assert synced == [("out", 0), (out.parent.name, 0), *(("results.jsonl", end) for end in ends)]


class KilledHereError(BaseException):
    """Goes through everything, as the end of a process does."""


class HalfAFile:
    """A file of which only the beginning of what is written arrives, before the process is killed."""

    def __init__(self, file: IO[str], step: Callable[[], None], share: float) -> None:
        self._file, self._step, self._share = file, step, share

    def write(self, text: str) -> None:
        try:
            self._step()
        except KilledHereError:
            self._file.write(text[: int(self._share * len(text))])
            raise
        self._file.write(text)

    def flush(self) -> None:
        self._step()
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()


@pytest.mark.parametrize("seed", range(8))
def test_no_image_is_lost_or_repeated_wherever_it_breaks(
    seed: int, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    left = 0
    opened, write_png, fsync = ResultsWriter._open_lines, images.write_png, os.fsync

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KilledHereError

    def stepping(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            step()
            result = function(*arguments)
            step()
            return result

        return run

    monkeypatch.setattr(images, "write_png", stepping(write_png))
    monkeypatch.setattr(os, "fsync", stepping(fsync))
    monkeypatch.setattr(ResultsWriter, "_open_lines", lambda self: HalfAFile(opened(self), step, rng.random()))
    killed = 0
    for number in range(12):
        put(folder, f"{number}.png", 20 * number)
    (folder / "12.png").write_bytes(b"no image")
    while True:
        left = rng.randint(1, 30)
        try:
            once(folder, out, every=0)
            break
        except KilledHereError:
            killed += 1
    left = -1
    assert killed > 2
    require_one_result_each(folder, out)
    assert once(folder, out) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are started by fork, because torch starts slowly")
def test_killed_twenty_times_each_image_has_one_result(folder: Path, out: Path) -> None:
    program = "import sys; from tests.e2e.test_watch_killed import be_killed; be_killed(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(folder), str(out)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    progress = json.loads(ended.stdout)
    assert len(progress) == KILLS
    # The kills came in the middle of the work, and what was there before each is there still.
    assert sum(0 < done < there for there, done in progress) > KILLS // 4
    assert [done for _, done in progress] == sorted(done for _, done in progress)
    once(folder, out)
    assert len(records(out)) == IMAGES
    require_one_result_each(folder, out)


def be_killed(watched: str, results: str) -> None:
    """Start watches and kill them at random moments while images arrive; print images and lines after each."""
    from patchcore_plugin.inference import rendering  # noqa: F401  once here, and not after each fork

    folder, out = Path(watched), Path(results)
    rng = random.Random(0)
    progress: list[tuple[int, int]] = []

    def lines() -> int:
        file = out / "results.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    for number in range(KILLS):
        for image in range(IMAGES // KILLS):
            put(folder, f"{number:02}_{image}.png", rng.randrange(256))
        watch = os.fork()
        if watch == 0:
            for _ in quick(folder, out, Brightness(seconds=0.005)).run():
                pass
            os._exit(1)
        begun = number % 4 == 0  # some are killed before they judge anything
        deadline = time.monotonic() + 10
        while not begun and time.monotonic() < deadline:
            time.sleep(0.002)
            begun = lines() > (progress[-1][1] if progress else 0)
        time.sleep(rng.uniform(0, 0.08))
        os.kill(watch, signal.SIGKILL)
        _, status = os.waitpid(watch, 0)
        assert os.WIFSIGNALED(status)
        progress.append(((number + 1) * (IMAGES // KILLS), lines()))
    print(json.dumps(progress))
