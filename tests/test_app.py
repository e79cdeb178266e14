"""What stands behind the page, without a browser: limits, visits, models, the fit, guards, downloads and pictures."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from starlette.types import Message, Receive, Scope, Send
from typer.testing import CliRunner

from patchcore_plugin.app import downloads, drawing
from patchcore_plugin.app.fitting import Fitting, Wanted
from patchcore_plugin.app.guards import ENVELOPE, BodyLimit, SameOrigin
from patchcore_plugin.app.library import KEPT, Library, Loaded
from patchcore_plugin.app.limits import Folders, Limits, model_path
from patchcore_plugin.app.pictures import Pictures
from patchcore_plugin.app.visit import Source, Visits, display_name, judge, promise
from patchcore_plugin.calibration import Calibration, GoodPhoto
from patchcore_plugin.cli import app
from patchcore_plugin.errors import DatasetError, ImageError, ModelFileError, PatchcoreError
from patchcore_plugin.images import read_photo
from patchcore_plugin.photo_container import inspect
from patchcore_plugin.prediction import Nearest, Prediction

CALIBRATION = Calibration.of_good([GoodPhoto(float(n), 0.0, float(n)) for n in range(1, 20)], "19 photos")


class FakeModel:
    """Scores a photo by its brightest pixel; the map is the photo's first channel."""

    thumbnails: dict[int, bytes] = {}  # noqa: RUF012

    def __init__(self, calibration: Calibration = CALIBRATION) -> None:
        self.calibration = calibration
        self.busy = threading.Lock()

    def predict_each(self, photos: Iterable[Path], /, *, on_error: str) -> Iterator[Prediction | ImageError]:
        assert on_error == "skip"
        assert self.busy.acquire(blocking=False), "two calls at once"
        try:
            for path in photos:
                try:
                    pixels = read_photo(path)
                except ImageError as error:
                    yield error
                else:
                    yield prediction(pixels[..., 0].astype(np.float32), self.calibration)
        finally:
            self.busy.release()

    def save(self, path: Path) -> None:
        path.write_text(json.dumps([self.calibration.threshold, path.stat().st_size if path.exists() else 0]))


def prediction(values: Any, calibration: Calibration = CALIBRATION, photo: str | None = "a.png") -> Prediction:
    nearest = Nearest(
        photo=photo, x=1, y=2, peak_x=3, peak_y=4, distance=1.0, number=0, size=(8, 8), box=(0, 0, 2, 2),
        peak_box=(2, 2, 2, 2),
    )  # fmt: skip
    found = np.asarray(values, dtype=np.float32)
    return Prediction.against(calibration, "x", (found.shape[0], found.shape[1]), float(found.max()), found, nearest)


def photo(value: int, size: tuple[int, int] = (8, 10), suffix: str = ".png") -> bytes:
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[2:4, 2:5] = value
    return cv2.imencode(suffix, pixels)[1].tobytes()


def png_header(width: int, height: int) -> bytes:
    """Return a whole PNG file that says it is so large, and holds no pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def visits() -> Iterator[Visits]:
    with Visits(Limits(upload=10**6, pixels=10**6, photos=3, memory=2000)) as found:
        yield found


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    path = tmp_path / "model.safetensors"
    model = FakeModel()
    model.save(path)
    return Loaded(path, model)


# Folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for name in ("photos/good", "photos2", "secret"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(photo(1))
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "secret", target_is_directory=True)
    return Folders([tmp_path / "photos"])


def test_a_folder_below_a_root_is_found_by_either_name(folders: Folders, tmp_path: Path) -> None:
    for text in ("good", " good/ ", str(tmp_path / "photos" / "good"), "good/../good", "../photos/good"):
        assert folders.folder(text) == tmp_path / "photos" / "good"
    assert folders.photos("good") == [tmp_path / "photos" / "good" / "a.png"]


@pytest.mark.parametrize("text", ["..", "../photos2", "{}/photos2", "/etc", "link", "good/../../secret", "../nowhere"])
def test_a_folder_elsewhere_is_refused_whether_it_exists_or_not(folders: Folders, tmp_path: Path, text: str) -> None:
    text = text.format(tmp_path)
    with pytest.raises(DatasetError) as caught:
        folders.folder(text)
    assert str(caught.value) == f"{text}: outside of the folders that the app may read; they are given by --photos"


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no folder given"), ("good\0", "null character"), ("bad", "bad: no such folder"), ("good/a.png", "no such")],
)
def test_what_is_no_folder_is_told(folders: Folders, text: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        folders.folder(text)


def test_a_photo_that_is_a_link_elsewhere_is_refused(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "photos" / "good" / "b.png").symlink_to(tmp_path / "secret" / "a.png")
    with pytest.raises(DatasetError, match=r"b\.png: a link out of the folders that the app may read"):
        folders.photos("good")


def test_suggestions_follow_no_links(folders: Folders, tmp_path: Path) -> None:
    assert folders.suggestions() == [str(tmp_path / "photos"), str(tmp_path / "photos" / "good")]


def test_without_roots_nothing_may_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="outside of the folders"):
        Folders([]).folder(str(tmp_path))
    with pytest.raises(DatasetError, match="no such folder; give --photos a folder that exists"):
        Folders([tmp_path / "nowhere"])


# Photos


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.png", b"", "a.png: not a photo: the file is empty"),
        ("a.png", b"some words", "a.png: not a photo: it holds text"),
        ("a.png", photo(1)[:-9], "a.png: not a photo: the file is cut short"),
        ("a.png", png_header(0, 5), "a.png: not a photo: its headers do not say how large it is"),
        ("a.png", b"x" * 1001, "a.png: the file is larger than 0.001 MB; make it smaller, or start the app with a "),
        ("a.png", png_header(30_000, 30_000), "a.png: 30,000 x 30,000 pixels are more than the 1 million that are"),
        ("a.png", png_header(1001, 1000), "a.png: 1,001 x 1,000 pixels are more than"),
    ],
    ids=["empty", "text", "cut", "no size", "large file", "30,000 squared", "a row too many"],
)
def test_a_photo_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, words: str
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=re.escape(words)):
        Limits(upload=1000, pixels=10**6).check_photo(name, data)


def test_a_photo_just_within_the_limits_is_taken() -> None:
    Limits(upload=1000, pixels=10**6).check_photo("a.png", png_header(1000, 1000))
    data = photo(1)
    Limits(upload=len(data), pixels=80).check_photo("a.png", data)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", []),
        (".jpg", []),
        (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".bmp", []),
        (".tif", []),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    ],
)
def test_the_headers_say_the_size_that_is_decoded(suffix: str, options: list[int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (37, 91, 3), dtype=np.uint8)
    assert inspect(cv2.imencode(suffix, pixels, options)[1].tobytes()).size == (37, 91)


def test_a_webp_with_a_canvas_says_its_size() -> None:
    pixels = np.zeros((5, 7, 4), np.uint8)
    pixels[0, 0, 3] = 255
    lossy = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 50])[1].tobytes()
    assert lossy[12:16] == b"VP8X"
    assert inspect(lossy).size == (5, 7)


def test_of_two_widths_in_a_tiff_the_first_counts() -> None:
    entries = [(256, 30_000), (257, 30_000), (256, 1), (257, 1)]
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    tiff = b"II*\0" + struct.pack("<IH", 8, len(entries)) + fields + bytes(4)
    assert inspect(tiff).size == (30_000, 30_000)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\a.png", "a.png"),
        ("a\n\x1b[31m.png", "a??[31m.png"),
        ("", "photo"),
        ("x" * 200, "x" * 80),
    ],
)
def test_the_name_of_an_upload_is_for_people(name: str, shown: str) -> None:
    assert display_name(name) == shown


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".hidden", "a b", "a\0", "-x", "a" * 101, "C:\\a"])
def test_a_name_that_is_a_path_is_no_models_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match="cannot be a model's name"):
        model_path(tmp_path, name)


def test_a_models_name_in_use_is_refused(tmp_path: Path) -> None:
    assert model_path(tmp_path, " part-1.safetensors ") == model_path(tmp_path, "part-1")
    (tmp_path / "part-1.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match=r"part-1.safetensors exists already in .*; choose another name"):
        model_path(tmp_path, "part-1")


# Visits


def test_a_threshold_judges_all_photos_anew(visits: Visits, loaded: Loaded) -> None:
    visit = visits.start()
    visit.use(loaded)
    for value in (5, 30):
        visit.add(Source(name=f"{value}.png", file=Path("x"), owned=False), prediction(np.full((2, 2), value)))
    low, high = visit.photos.values()
    assert CALIBRATION.threshold == 19
    assert [visit.verdict(low), visit.verdict(high)] == [False, True]
    assert not visit.is_changed
    visit.choose_threshold(4.5)
    assert [visit.verdict(low), visit.verdict(high)] == [True, True]
    results = visit.results()
    assert [(found.path, found.threshold, found.is_anomalous) for _, found in results] == [
        ("5.png", 4.5, True),
        ("30.png", 4.5, True),
    ]
    assert len(low.found.regions) == 0
    assert len(results[0][1].regions) == 1, "the map's threshold goes with it"
    visit.choose_threshold(30)
    assert [visit.verdict(low), visit.verdict(high)] == [False, False]
    visit.choose_rate(0.5)
    assert visit.calibration == CALIBRATION.at_rate(0.5)
    visit.restore()
    assert visit.calibration == CALIBRATION
    with pytest.raises(PatchcoreError, match="finite"):
        visit.choose_threshold(float("nan"))


def test_one_visitors_threshold_is_not_anothers(visits: Visits, loaded: Loaded) -> None:
    one, other = visits.start(), visits.start()
    one.use(loaded), other.use(loaded)
    one.choose_threshold(3.0)
    assert (other.calibration, loaded.calibration) == (CALIBRATION, CALIBRATION)
    assert one.save()
    assert loaded.calibration.threshold == 3.0
    assert json.loads(loaded.path.read_text())[0] == 3.0
    assert not one.is_changed


def test_what_is_promised_is_said() -> None:
    assert promise(CALIBRATION) == "Promised: at most 5.00% false alarms on good photos."
    assert promise(CALIBRATION.at_threshold(17.5)) == (
        "Estimated: 2 of 19 good photos lie above, at most 15.00% false alarms."
    )
    assert promise(CALIBRATION.at_threshold(0)) == "Nothing is known of false alarms at this threshold."
    assert promise(Calibration.none("one photo")) == (
        "The model has no threshold: no good photos were judged in its fit."
    )


def test_of_too_many_photos_the_oldest_go_with_their_files(visits: Visits, loaded: Loaded) -> None:
    visit = visits.start()
    visit.use(loaded)
    sources = [visit.upload("../same.png", photo(value)) for value in range(5)]
    assert len({source.file for source in sources}) == 5
    assert {source.file.parent for source in sources} == {visit.folder}
    for source in sources:
        visit.add(source, prediction(np.zeros((1, 1))))
    assert list(visit.photos) == [3, 4, 5]
    assert [source.file.exists() for source in sources] == [False, False, True, True, True]
    visits.end(visit)
    assert not visit.folder.exists()
    assert visits.get(visit.token) is None


def test_a_photo_of_a_folder_is_never_removed(visits: Visits, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(photo(1))
    visit = visits.start()
    visit.add(Source(name="a.png", file=file, owned=False), prediction(np.zeros((1, 1))))
    visit.clear()
    visits.end(visit)
    assert file.exists()


def test_memory_is_bounded_over_all_visits_and_the_largest_pays(visits: Visits) -> None:
    small, large = visits.start(), visits.start()
    source = Source(name="a", file=Path("a"), owned=False)
    small.add(source, prediction(np.zeros((10, 10))))
    for _ in range(3):
        large.add(source, prediction(np.zeros((20, 10))))
    assert (small.cost, large.cost) == (400, 2400)
    visits.make_room()
    assert (len(small.photos), list(large.photos)) == (1, [2, 3])


def test_a_refused_upload_leaves_nothing(visits: Visits) -> None:
    visit = visits.start()
    with pytest.raises(ImageError, match=r"notes\.png: not a photo: it holds text"):
        visit.upload("folder/notes.png", b"words")
    assert not visit.folder.exists()


def test_all_uploads_are_gone_with_the_app() -> None:
    with Visits(Limits()) as visits:
        folder = visits.start().upload("a.png", photo(1)).file.parent
        assert folder.exists()
    assert not folder.exists()
    assert not folder.parent.exists()


def test_errors_stand_in_the_place_of_their_photos(loaded: Loaded, tmp_path: Path) -> None:
    files = {"good": photo(200), "text": b"words", "huge": png_header(2000, 2000), "empty PNG": png_header(4, 4)}
    sources = [Source(name=name, file=tmp_path / str(i), owned=True) for i, name in enumerate([*files, "gone"])]
    for source, data in zip(sources, files.values(), strict=False):
        source.file.write_bytes(data)
    found = judge(loaded, Limits(pixels=10**6), sources)
    assert [source.name for source, _ in found] == [*files, "gone"]
    first, *errors = (answer for _, answer in found)
    assert isinstance(first, Prediction)
    assert first.score == 200
    assert [str(error) for error in errors] == [
        "text: not a photo: it holds text",
        "huge: 2,000 x 2,000 pixels are more than the 1 million that are taken here; make the photo smaller, or "
        "start the app with a higher --max-pixels",
        "empty PNG: cannot be read: damaged, or of a rare kind; save it again as PNG",
        "gone: cannot be opened (No such file or directory)",
    ]


# Models


def test_models_are_those_of_the_folder_and_the_one_given(tmp_path: Path) -> None:
    models, given = tmp_path / "models", tmp_path / "given.safetensors"
    outside = tmp_path / "outside.safetensors"
    models.mkdir()
    for path in (
        given,
        outside,
        models / "b.safetensors",
        models / "given.safetensors",
        models / "c.onnx",
        models / "d.txt",
    ):
        path.write_text("1")
    (models / "link.safetensors").symlink_to(outside)
    library = Library(given, models, lambda path: path.name)
    twin = models / "given.safetensors"
    assert library.paths() == {
        "given.safetensors": given,
        "b.safetensors": models / "b.safetensors",
        "c.onnx": models / "c.onnx",
        str(twin): twin,
    }
    assert library.open("b.safetensors").model == "b.safetensors"
    for label in ("link.safetensors", "../outside.safetensors", str(outside), "d.txt"):
        with pytest.raises(ModelFileError, match="no such model here any more"):
            library.open(label)
    assert Library(None, tmp_path / "nowhere", lambda path: path).paths() == {}


def test_a_model_is_loaded_once_until_its_file_changes(tmp_path: Path) -> None:
    calls: list[str] = []
    for number in range(KEPT + 1):
        (tmp_path / f"{number}.safetensors").write_text("1")
    library = Library(None, tmp_path, lambda path: calls.append(path.stem))
    assert library.open("0.safetensors") is library.open("0.safetensors")
    (tmp_path / "0.safetensors").write_text("changed")
    library.open("0.safetensors")
    assert calls == ["0", "0"]
    for number in range(1, KEPT + 1):
        library.open(f"{number}.safetensors")
    library.open("0.safetensors")
    assert calls == ["0", "0", "1", "2", "3", "0"], "no more than a few stay in memory"


def test_a_file_that_somebody_else_changed_is_not_overwritten(loaded: Loaded) -> None:
    loaded.path.write_text("an update by another program")
    with pytest.raises(ModelFileError, match="has changed since it was loaded; choose it again"):
        loaded.save(CALIBRATION.at_threshold(1))
    assert loaded.path.read_text() == "an update by another program"
    assert loaded.calibration == CALIBRATION


def test_a_threshold_that_cannot_be_written_is_not_kept(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loaded.model, "save", full)
    with pytest.raises(OSError, match="No space left"):
        loaded.save(CALIBRATION.at_threshold(1))
    assert loaded.calibration == CALIBRATION


def test_visitors_wait_for_each_other(loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(photo(1))
    threads = [threading.Thread(target=loaded.judge, args=([tmp_path / "a.png"] * 40,)) for _ in range(4)]
    failed: list[object] = []
    threading.excepthook, before = failed.append, threading.excepthook
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = before
    assert failed == []


# The fit


class Fits:
    """A model whose fit takes as long as it is let."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.error: BaseException | None = None
        self.given: object = None

    def fit(
        self,
        photos: Sequence[Path],
        *,
        false_alarm_rate: float | None,
        keep_thumbnails: bool,
        progress: Any,
        announce: Any,
    ) -> None:
        self.given = photos, false_alarm_rate, keep_thumbnails
        announce("a line")
        progress("reading photos", 1, 2)
        assert self.go.wait(10)
        progress("reading photos", 2, 2)
        if self.error is not None:
            raise self.error


WANTED = Wanted(folder="good", photos=(Path("a"),), recipe="patchcore", backbone=None, rate=0.1, thumbnails=True)


def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.005)
    pytest.fail("it took too long")


def test_a_fit_is_seen_while_it_runs_and_only_one_runs() -> None:
    model = Fits()
    fitting = Fitting(lambda wanted: model)
    fitting.start(WANTED)
    until(lambda: fitting.done == 1)
    assert (fitting.state, fitting.stage, fitting.total, fitting.notes) == ("running", "reading photos", 2, ["a line"])
    with pytest.raises(PatchcoreError, match="another fit is running; wait for it, or cancel it"):
        fitting.start(WANTED)
    model.go.set()
    fitting.wait(10)
    assert (fitting.state, fitting.model) == ("done", model)
    assert model.given == ([Path("a")], 0.1, True)


def test_a_fit_can_be_cancelled_and_begun_anew() -> None:
    models = [Fits(), Fits()]
    rest = iter(models)
    fitting = Fitting(lambda wanted: next(rest))
    fitting.start(WANTED)
    until(lambda: fitting.done == 1)
    fitting.cancel()
    models[0].go.set()
    fitting.wait(10)
    assert (fitting.state, fitting.model, fitting.error) == ("cancelled", None, None)
    models[1].go.set()
    fitting.start(WANTED)
    fitting.wait(10)
    assert (fitting.state, fitting.model) == ("done", models[1])


def test_what_goes_wrong_in_a_fit_is_told() -> None:
    model = Fits()
    model.error = ImageError("a.png: not\n a photo")
    model.go.set()
    fitting = Fitting(lambda wanted: model)
    fitting.start(WANTED)
    fitting.wait(10)
    assert (fitting.state, fitting.error, fitting.model) == ("failed", "a.png: not a photo", None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_fit_is_told_and_the_next_fit_runs() -> None:
    model = Fits()
    model.error = ZeroDivisionError("oh")
    model.go.set()
    fitting = Fitting(lambda wanted: model)
    fitting.start(WANTED)
    fitting.wait(10)
    assert (fitting.state, fitting.error) == ("failed", "ZeroDivisionError: oh")
    model.error = None
    fitting.start(WANTED)
    fitting.wait(10)
    assert fitting.state == "done"


# Guards


def status(guard: Any, headers: dict[str, str], body: Sequence[bytes] = (), kind: str = "http") -> tuple[Any, bytes]:
    """Return the status (or closing code) of a request to an app that reads the body and returns it."""
    read = b""

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal read
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            read += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    said: list[Message] = []
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        said.append(message)

    scope = {
        "type": kind,
        "method": "POST",
        "path": "/",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    try:
        asyncio.run(guard(inner)(scope, receive, send))
    except ConnectionError:
        return "gone", read
    return said[0].get("status", said[0].get("code")), read


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_other_sites_are_kept_out(kind: str) -> None:
    refused = 403 if kind == "http" else 1008
    host = {"host": "127.0.0.1:8080"}
    for origin in ("http://evil.example", "http://127.0.0.1:8081", "null", "http://127.0.0.1:8080.evil.example"):
        assert status(SameOrigin, {**host, "origin": origin}, kind=kind)[0] == refused
    for headers in (host, {**host, "origin": "http://127.0.0.1:8080"}, {"host": "Box:1", "origin": "https://box:1"}):
        assert status(SameOrigin, headers, kind=kind)[0] == 200


def test_large_bodies_are_refused_by_what_they_say_and_by_what_arrives() -> None:
    def guard(inner: Any) -> BodyLimit:
        return BodyLimit(inner, limit=100)

    most = 100 + ENVELOPE
    assert status(guard, {"content-length": str(most)}, [b"x" * most]) == (200, b"x" * most)
    assert status(guard, {"content-length": str(most + 1)}, [b"x" * most]) == (413, b"")
    assert status(guard, {"content-length": "much"}) == (413, b"")
    assert status(guard, {}, [b"x" * most, b"x", b"x"]) == ("gone", b"x" * most), "it stops where the limit is"


# Downloads and pictures


@pytest.fixture
def results(visits: Visits, loaded: Loaded) -> downloads.Results:
    visit = visits.start()
    visit.use(loaded)
    for name, value in (("=cmd.png", 10), ("b.png", 200)):
        source = visit.upload(name, photo(value))
        ((_, found),) = judge(loaded, visit.limits, [source])
        assert isinstance(found, Prediction)
        visit.add(source, found)
    return visit.results()


def test_lines_are_those_that_predict_writes(results: downloads.Results) -> None:
    lines = [json.loads(line) for line in downloads.as_lines(results).splitlines()]
    assert [(line["path"], line["score"], line["is_anomalous"], line["p_value"]) for line in lines] == [
        ("=cmd.png", 10.0, False, 0.55),
        ("b.png", 200.0, True, 0.05),
    ]
    assert [each["box"] for each in lines[1]["regions"]] == [[2, 2, 3, 2]]


def test_a_table_holds_no_formula(results: downloads.Results) -> None:
    rows = list(csv.DictReader(io.StringIO(downloads.as_table(results).decode("utf-8-sig"))))
    assert [(row["photo"], row["verdict"], row["score"], row["threshold"], row["regions"]) for row in rows] == [
        ("'=cmd.png", "good", "10.0", "19.0", "0"),
        ("b.png", "defect", "200.0", "19.0", "1"),
    ]


def test_the_zip_file_has_all_and_pictures_on_the_pages_scale(results: downloads.Results, tmp_path: Path) -> None:
    def why(pixels: Any, found: Prediction) -> Any:
        assert pixels.shape[:2] == found.size
        return np.zeros((4, 4, 3), np.uint8) if found.is_anomalous else None

    downloads.write_zip(tmp_path / "r.zip", results, (0.0, 400.0), why)
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        lines = [json.loads(line) for line in archive.read("results.jsonl").splitlines()]
        assert {"results.csv", *(line["overlay"] for line in lines), *(line["map"] for line in lines)} <= names
        assert lines[0]["scale"] == [0.0, 400.0]
        assert [line["why"] in names for line in lines] == [False, True]
        assert [each["bbox"] for each in json.loads(archive.read("coco.json"))["annotations"]] == [[2, 2, 3, 2]]
        assert archive.read(lines[1]["overlay"]).startswith(b"\x89PNG")


def test_heat_is_clear_below_the_scale_and_full_above() -> None:
    values = np.array([[0, 1, 2, 3, np.nan]], dtype=np.float32)
    pixels = cv2.imdecode(np.frombuffer(drawing.heat(values, (1.0, 3.0), 100), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels[0, :, 3].tolist() == [0, 0, 128, 255, 255]
    wide = drawing.heat(np.zeros((30, 300), np.float32), (0.0, 1.0), 100)
    assert inspect(wide).size == (10, 100)
    assert inspect(drawing.jpeg(np.zeros((30, 300, 3), np.uint8), 100)).size == (10, 100)


def test_outlines_lie_where_the_regions_are() -> None:
    values = np.zeros((6, 9), np.float32)
    values[1:3, 4:8] = 1
    svg = drawing.outlines(values, 0.5).decode()
    assert 'viewBox="0 0 9 6"' in svg
    assert {"4 1", "8 1", "8 3", "4 3"} <= set(re.split("[MLZ]", svg.split(' d="')[1]))


def test_the_histogram_shows_scores_threshold_and_photos() -> None:
    svg = drawing.histogram([1, 1, 2], [(1.5, False), (9.0, True)], 3.0, (0.0, 10.0))
    assert "Scores of 3 good photos, as a histogram; 2 judged photos, 1 above the threshold" in svg
    assert 'class="pc-line" d="M96.0' in svg
    heights = [float(each) for each in re.findall(r'height="([\d.]+)"/>', svg)]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)
    assert 'class="pc-good" d="M48.0' in svg
    assert 'class="pc-defect" d="M288.0' in svg
    low, high = drawing.span([5.0, 5.0])
    assert low < 5 < high


def test_a_training_photo_elsewhere_is_not_shown(visits: Visits, folders: Folders, tmp_path: Path) -> None:
    pictures = Pictures(visits, folders)

    def shown(path: Path | None, model: object) -> bool:
        found = prediction(np.zeros((1, 1)), photo=None if path is None else str(path))
        return pictures.has_why(model, found.nearest)

    model = FakeModel()
    assert shown(tmp_path / "photos" / "good" / "a.png", model)
    for path in (tmp_path / "secret" / "a.png", tmp_path / "photos" / "link" / "a.png", None):
        assert not shown(path, model)
    model.thumbnails = {0: b"jpeg"}
    assert shown(tmp_path / "secret" / "a.png", model)


# The command


def run(*arguments: str) -> str:
    """Return what the command says is wrong."""
    done = CliRunner().invoke(app, ["app", *arguments])
    assert isinstance(done.exception, PatchcoreError)
    return str(done.exception)


def test_without_the_extra_one_line_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchcore_plugin.cli.web.find_spec", lambda name: None)
    assert run() == "the app needs NiceGUI, which is not installed; pip install 'patchcore-plugin[app]'"


def test_what_is_wrong_at_the_start_is_told(tmp_path: Path) -> None:
    assert "gone.safetensors" in run(str(tmp_path / "gone.safetensors"))
    assert (
        run("--photos", str(tmp_path / "gone"))
        == f"{tmp_path / 'gone'}: no such folder; give --photos a folder that exists"
    )


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run("--port", str(port)) == (
            f"cannot listen on 127.0.0.1, port {port} (Address already in use); choose another with --host and --port"
        )
    assert "cannot listen on nowhere.invalid, port 8080" in run("--host", "nowhere.invalid")


def test_help_imports_neither_nicegui_nor_torch() -> None:
    code = (
        "import sys; sys.argv = ['patchcore', 'app', '--help']\n"
        "from patchcore_plugin.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'nicegui', 'torch', 'starlette'} & set(sys.modules), 'too much'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--max-upload" in done.stdout
