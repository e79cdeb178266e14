"""A watched folder: each photo is judged once, whatever happens to the watch and to the photo."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner, Result

import patchcore_plugin as pp
from patchcore_plugin import arrivals, images
from patchcore_plugin.arrivals import Arrivals, Identity
from patchcore_plugin.cli import app
from patchcore_plugin.errors import DatasetError, ImageError, ResultsError
from patchcore_plugin.images import read_photo
from patchcore_plugin.result_journal import locked, read_back
from patchcore_plugin.result_writer import ResultsWriter
from patchcore_plugin.watching import Done, Watch, picture_name

KILLS = 20
PHOTOS = 100


@dataclass(frozen=True)
class Found:
    path: str | None
    size: tuple[int, int]
    score: float
    anomaly_map: npt.NDArray[np.float32] | None
    threshold: float | None = 0.5
    is_anomalous: bool | None = False
    nearest: None = None
    p_value: float | None = 0.25
    regions: tuple[()] = ()


@dataclass
class Brightness:
    """A model without a network: what is bright is a defect."""

    map_scale: tuple[float, float] = (0.0, 1.0)
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    seconds: float = 0.0
    before_each: Callable[[Path], object] = lambda path: None
    maps: bool = True

    def predict_each(self, photos: Iterable[Any], /, *, on_error: str = "stop") -> Iterator[Found | ImageError]:
        assert on_error == "skip"
        for path in photos:
            self.before_each(path)
            time.sleep(self.seconds)
            try:
                photo = read_photo(path)
            except ImageError as error:
                yield error
                continue
            grey = (photo.mean(axis=2) / 255).astype(np.float32)
            score = float(grey.max())
            yield Found(str(path), grey.shape, score, grey if self.maps else None, is_anomalous=score > 0.5)


def png(value: int = 40, size: tuple[int, int] = (6, 8)) -> bytes:
    done, encoded = cv2.imencode(".png", np.full((*size, 3), value, dtype=np.uint8))
    assert done
    return encoded.tobytes()


def put(folder: Path, name: str, value: int = 40) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value))
    return path


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def quick(folder: Path, out: Path, model: Brightness | None = None, **options: Any) -> Watch:
    return Watch(model or Brightness(), folder, out, **{"every": 0.01, "patience": 0.0, **options})


def once(folder: Path, out: Path, model: Brightness | None = None, **options: Any) -> list[Done]:
    """Judge what is there, and end."""
    return list(quick(folder, out, model, **options).run(until_idle=0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_each_photo_is_judged_once_and_recorded(folder: Path, out: Path) -> None:
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
        assert images.read_photo(out / line["map"]).shape == images.read_photo(out / line["overlay"]).shape == (6, 8, 3)
    # A photo is not taken for whole at first sight, and the wait counts.
    assert all(0.05 <= each.seconds < 5 for each in done)
    assert once(folder, out) == []
    put(folder, "c.png")
    assert [each.record["path"] for each in once(folder, out)] == ["c.png"]
    assert len(records(out)) == 3


def test_the_oldest_comes_first(folder: Path, out: Path) -> None:
    for name, seconds in (("a.png", 3), ("b.png", 1), ("c.png", 2)):
        os.utime(put(folder, name), (seconds, seconds))
    assert [each.record["path"] for each in once(folder, out)] == ["b.png", "c.png", "a.png"]


def test_what_is_no_photo_is_left_alone(folder: Path, tmp_path: Path) -> None:
    for name in (".a.png", "a.png.part", "a.png.tmp", "a.png~", "a.txt", ".hidden/a.png", "b/.hidden/a.png"):
        put(folder, name)
    (folder / "folder.png").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
        assert Arrivals(folder, [], tmp_path, lambda line: None).identify("pipe.png") is None
    put(folder, "good.png")
    out = folder / "b" / "results"  # its own pictures are photos in the folder
    assert [each.record["path"] for each in once(folder, out)] == ["good.png"]
    assert once(folder, out) == []
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(DatasetError, match=r"in: its pictures would be watched too; give another folder for the res"):
        Watch(Brightness(), link, folder)
    with pytest.raises(DatasetError, match=r"nowhere: no such folder to watch; check the path"):
        Watch(Brightness(), tmp_path / "nowhere", out)


def test_a_photo_that_is_being_written_is_waited_for(folder: Path, out: Path) -> None:
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


def test_a_photo_that_cannot_be_read_is_told_once_with_the_reason(folder: Path, out: Path) -> None:
    bad = folder / "bad.png"
    bad.write_bytes(b"no photo")
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


def test_a_file_that_is_written_anew_is_another_photo(folder: Path, out: Path) -> None:
    path = put(folder, "a.png", 40)
    (first,) = once(folder, out)
    path.write_bytes(png(200))
    os.utime(path, ns=(1, first.record["mtime_ns"] + 1))
    (second,) = once(folder, out)
    assert [each["is_anomalous"] for each in records(out)] == [False, True]
    assert first.record["map"] != second.record["map"]
    assert len(list((out / "heat_maps").iterdir())) == 2


def test_a_photo_that_is_gone_before_it_was_judged_is_forgotten(folder: Path, out: Path) -> None:
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


def test_it_ends_after_the_photo_at_hand_when_it_is_told_to(folder: Path, out: Path) -> None:
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


# What is on disk is the state


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


def test_pictures_of_a_repeated_photo_replace_its_own(folder: Path, out: Path) -> None:
    put(folder, "a.png")
    put(folder, "a/a.png")
    once(folder, out)
    pictures = {path.name for path in (out / "overlays").iterdir()}
    assert len(pictures) == 2
    (out / "results.jsonl").write_bytes(b"")
    (out / "overlays" / ".0123.tmp").write_bytes(b"half a picture")
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
            r", line 1: no photo of a watch; move the file away, or give another folder$",
        ),
        (b'{"path": "a.png", "size": null, "mtime_ns": 2}\n', r", line 1: no photo of a watch"),
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
def test_no_photo_is_lost_or_repeated_wherever_it_breaks(
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
    (folder / "12.png").write_bytes(b"no photo")
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


def require_one_result_each(folder: Path, out: Path) -> None:
    lines = records(out)
    assert sorted(line["path"] for line in lines) == sorted(path.name for path in folder.iterdir())
    for line in lines:
        if "error" not in line:
            assert images.read_photo(out / line["map"]).shape == images.read_photo(out / line["overlay"]).shape
            assert line["score"] == pytest.approx(images.read_photo(folder / line["path"]).mean(axis=2).max() / 255)
    for pictures in ("heat_maps", "overlays"):
        named = {line["map" if pictures == "heat_maps" else "overlay"] for line in lines if "error" not in line}
        assert {f"{pictures}/{path.name}" for path in (out / pictures).iterdir()} == named


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are started by fork, because torch starts slowly")
def test_killed_twenty_times_each_photo_has_one_result(folder: Path, out: Path) -> None:
    command = [sys.executable, __file__, str(folder), str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    progress = json.loads(ended.stdout)
    assert len(progress) == KILLS
    # The kills came in the middle of the work, and what was there before each is there still.
    assert sum(0 < done < there for there, done in progress) > KILLS // 4
    assert [done for _, done in progress] == sorted(done for _, done in progress)
    once(folder, out)
    assert len(records(out)) == PHOTOS
    require_one_result_each(folder, out)


def be_killed(folder: Path, out: Path, seed: int) -> list[tuple[int, int]]:
    """Start watches and kill them at random moments while photos arrive; return photos and lines after each."""
    from patchcore_plugin import rendering  # noqa: F401  once here, and not after each fork

    rng = random.Random(seed)
    progress: list[tuple[int, int]] = []

    def lines() -> int:
        file = out / "results.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    for number in range(KILLS):
        for photo in range(PHOTOS // KILLS):
            put(folder, f"{number:02}_{photo}.png", rng.randrange(256))
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
        progress.append(((number + 1) * (PHOTOS // KILLS), lines()))
    return progress


# Looking


def test_a_photo_that_stands_still_is_ready(folder: Path, out: Path) -> None:
    look = Arrivals(folder, [], out, lambda line: None)
    assert look.idle() is not None
    path = put(folder, "a.png")
    assert look.look() == []
    assert look.idle() is None
    (ready,) = look.look()
    assert ready.identity == Identity("a.png", path.stat().st_size, path.stat().st_mtime_ns)
    with path.open("ab") as file:
        file.write(b"more")
    assert look.look() == []
    (changed,) = look.look()
    assert changed.seen > ready.seen
    look.finish(changed.identity)
    assert look.look() == []
    assert look.idle() is not None
    put(folder, "b.png")
    look.look()
    (folder / "b.png").unlink()
    assert look.look() == []
    assert look.idle() is not None


def test_photos_that_are_done_are_asked_again_in_turn(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "RECHECKED", 5)
    asked: list[str] = []
    identify = Arrivals.identify

    def ask(self: Arrivals, path: str) -> Identity | None:
        asked.append(path)
        return identify(self, path)

    monkeypatch.setattr(Arrivals, "identify", ask)
    paths = [put(folder, f"{number}.png") for number in range(40)]
    look = Arrivals(folder, [], out, lambda line: None)
    look.look()
    for arrival in look.look():
        look.finish(arrival.identity)
    asked.clear()
    for _ in range(9):
        before = len(asked)
        look.look()
        assert len(asked) - before < 20
    assert sorted(asked) == sorted(path.name for path in paths)
    paths[3].write_bytes(png(1, size=(9, 9)))
    found = [arrival.identity.path for _ in range(10) for arrival in look.look()]
    assert set(found) == {"3.png"}


def test_a_folder_that_cannot_be_opened_is_told_once(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "closed/a.png")
    put(folder, "b.png")
    closed = [True]
    walk = os.walk

    def partly(top: Path, onerror: Callable[[OSError], object], followlinks: bool) -> Iterator[Any]:
        for parent, folders, names in walk(top, onerror=onerror, followlinks=followlinks):
            if closed[0] and "closed" in folders:
                folders.remove("closed")
                onerror(PermissionError(errno.EACCES, "Permission denied", str(folder / "closed")))
            yield parent, folders, names

    monkeypatch.setattr(os, "walk", partly)
    said: list[str] = []
    look = Arrivals(folder, [], out, said.append)
    for _ in range(3):
        ready = [arrival.identity.path for arrival in look.look()]
    assert ready == ["b.png"]
    line = f"{folder / 'closed'}: cannot be opened (Permission denied); going on, and trying it again"
    assert said == [line]
    closed[0] = False
    look.look()
    assert {arrival.identity.path for arrival in look.look()} == {"b.png", "closed/a.png"}
    closed[0] = True
    look.look()
    assert said == [line, line]


# The command


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Brightness:
    fake = Brightness()
    monkeypatch.setattr("patchcore_plugin.models.load_model", lambda path, **options: fake)
    return fake


def patchcore(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["watch", "part.safetensors", *map(str, arguments)], catch_exceptions=True)


@pytest.mark.usefixtures("model")
def test_the_command_says_what_it_finds(folder: Path, out: Path) -> None:
    for number, (name, value) in enumerate((("good.png", 40), ("bad\n.png", 200))):
        os.utime(put(folder, name, value), (number, number))
    arguments = (folder, "--out", out, "--every", 0.01, "--until-idle", 0)
    ended = patchcore(*arguments)
    assert ended.exit_code == 0, ended.output
    assert re.fullmatch(
        r"""verdict      score  p-value    latency  photo
good         0\.157    0\.250     0\.\d\d s  good\.png
defect       0\.784    0\.250     0\.\d\d s  bad\\n\.png
2 photos, 1 defective, 0 could not be read; latency 0\.\d\d s in the median, 0\.\d\d s at worst
""",
        ended.stdout,
    )
    assert ended.stderr == f"{folder}: watched every 0.01 s\n"
    again = patchcore(*arguments)
    assert again.stdout == "0 photos, 0 defective, 0 could not be read\n"
    assert again.stderr == f"{folder}: watched every 0.01 s; 2 photos were done before\n"
    put(folder, "new.png")
    ended = patchcore(*arguments, "--json")
    record = json.loads(ended.stdout)
    assert record.pop("latency_seconds") > 0
    assert record == records(out)[2]
    assert "1 photos, 0 defective" in ended.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_when_it_is_told_to(number: int, model: Brightness, folder: Path, out: Path) -> None:
    put(folder, "a.png")
    put(folder, "b.png")
    handler = signal.getsignal(number)
    then: list[object] = []

    def tell(path: Path) -> None:
        os.kill(os.getpid(), number)
        then.append(signal.getsignal(number))

    model.before_each = tell
    ended = patchcore(folder, "--out", out, "--every", 0.01)
    assert ended.exit_code == 0, ended.output
    assert "1 photos, 0 defective" in ended.stdout
    assert len(records(out)) == 1
    # A second signal would have ended it at once.
    assert then == [handler]
    assert signal.getsignal(number) is handler


@pytest.mark.usefixtures("model")
def test_the_command_tells_failures(folder: Path, out: Path) -> None:
    with locked(out):
        ended = patchcore(folder, "--out", out)
    assert isinstance(ended.exception, ResultsError)
    assert ended.stdout == ""
    assert isinstance(patchcore(folder / "none", "--out", out).exception, DatasetError)


def test_a_real_model_gives_the_scores_of_predict(dataset: Path, folder: Path, out: Path) -> None:
    photos = sorted((dataset / "train" / "good").iterdir())[:4]
    detector = pp.Detector.from_recipe(
        "patchcore",
        backbone="efficientnet-lite0",
        preprocessing={"size": [64, 64]},
        sampler={"name": "random", "ratio": 0.05},
        device="cpu",
    ).fit(photos)
    detector.save(out.parent / "part.safetensors")
    judged = sorted((dataset / "test" / "blot").iterdir())
    for photo in judged:
        (folder / photo.name).write_bytes(photo.read_bytes())
    arguments = ["watch", str(out.parent / "part.safetensors"), str(folder), "--out", str(out), "--device", "cpu"]
    ended = CliRunner().invoke(app, [*arguments, "--every", "0.01", "--until-idle", "0"])
    assert ended.exit_code == 0, ended.output
    found = {line["path"]: line["score"] for line in records(out)}
    assert found == {path.name: each.score for path, each in zip(judged, detector.predict(judged), strict=True)}


if __name__ == "__main__":
    print(json.dumps(be_killed(Path(sys.argv[1]), Path(sys.argv[2]), seed=0)))
