"""`patchcore watch`: the row of each image, the summary, and how it stops."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

import patchcore_plugin as pp
from patchcore_plugin.inference.journal import lock_folder
from tests.commands import run_command, run_failing
from tests.inference.watched_model import Brightness, put, records


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Brightness:
    fake = Brightness()
    monkeypatch.setattr("patchcore_plugin.models.loading.load_model", lambda path, **options: fake)
    return fake


@pytest.mark.usefixtures("model")
def test_rows_and_summary(folder: Path, out: Path) -> None:
    for number, (name, value) in enumerate((("good.png", 40), ("bad\n.png", 200))):
        os.utime(put(folder, name, value), (number, number))
    arguments = ("watch", "part.safetensors", folder, "--out", out, "--every", 0.01, "--until-idle", 0)
    ended = run_command(*arguments)
    _, good, bad, summary = ended.out.splitlines()
    assert re.fullmatch(r"good +0\.157 +0\.250 +\d+\.\d\d s +good\.png", good)
    assert re.fullmatch(r"defect +0\.784 +0\.250 +\d+\.\d\d s +bad\\n\.png", bad)
    assert summary.startswith("2 images: 1 defective, 0 unreadable; latency ")
    assert str(folder) in ended.err
    repeated = run_command(*arguments)
    assert repeated.out == "0 images: 0 defective, 0 unreadable\n"
    assert "2 images" in repeated.err
    put(folder, "new.png")
    ended = run_command(*arguments, "--json")
    record = json.loads(ended.out)
    assert record.pop("latency_seconds") > 0
    assert record == records(out)[2]
    assert "1 image: 0 defective, 0 unreadable; " in ended.err


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_command(number: int, model: Brightness, folder: Path, out: Path) -> None:
    put(folder, "a.png")
    put(folder, "b.png")
    handler = signal.getsignal(number)
    handlers: list[object] = []

    def send_signal(path: Path) -> None:
        os.kill(os.getpid(), number)
        handlers.append(signal.getsignal(number))

    model.before_each = send_signal
    ended = run_command("watch", "part.safetensors", folder, "--out", out, "--every", 0.01)
    assert "1 image: 0 defective, 0 unreadable; " in ended.out
    assert len(records(out)) == 1
    # A second signal would have ended the process at once.
    assert handlers == [handler]
    assert signal.getsignal(number) is handler


@pytest.mark.usefixtures("model")
def test_failures(folder: Path, out: Path) -> None:
    with lock_folder(out):
        assert run_failing("watch", "part.safetensors", folder, "--out", out).startswith(f"{out}: another watch ")
    missing = folder / "none"
    assert run_failing("watch", "part.safetensors", missing, "--out", out).startswith(f"{missing}: ")


def test_scores_are_those_of_predict(dataset: Path, washer_model: Path, folder: Path, out: Path) -> None:
    images = sorted((dataset / "test" / "blot").iterdir())
    for image in images:
        (folder / image.name).write_bytes(image.read_bytes())
    run_command("watch", washer_model, folder, "--out", out, "--device", "cpu", "--every", 0.01, "--until-idle", 0)
    scores = {line["path"]: line["score"] for line in records(out)}
    predicted = pp.Detector.load(washer_model, device="cpu").predict(images)
    assert scores == {path.name: result.score for path, result in zip(images, predicted, strict=True)}
