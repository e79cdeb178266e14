"""`patchcore watch`: what it says of each image, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

import patchcore_plugin as pp
from patchcore_plugin.inference.journal import lock_folder
from tests.commands import done, failure
from tests.inference.watched_model import Brightness, put, records


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Brightness:
    fake = Brightness()
    monkeypatch.setattr("patchcore_plugin.models.loading.load_model", lambda path, **options: fake)
    return fake


@pytest.mark.usefixtures("model")
def test_the_command_says_what_it_finds(folder: Path, out: Path) -> None:
    for number, (name, value) in enumerate((("good.png", 40), ("bad\n.png", 200))):
        os.utime(put(folder, name, value), (number, number))
    arguments = ("watch", "part.safetensors", folder, "--out", out, "--every", 0.01, "--until-idle", 0)
    ended = done(*arguments)
    assert re.fullmatch(
        r"""verdict      score  p-value    latency  image
good         0\.157    0\.250 +\d+\.\d\d s  good\.png
defect       0\.784    0\.250 +\d+\.\d\d s  bad\\n\.png
2 images, 1 defective, 0 could not be read; latency \d+\.\d\d s in the median, \d+\.\d\d s at worst
""",
        ended.out,
    )
    assert ended.err == f"{folder}: watched every 0.01 s\n"
    again = done(*arguments)
    assert again.out == "0 images, 0 defective, 0 could not be read\n"
    assert again.err == f"{folder}: watched every 0.01 s; 2 images are already recorded\n"
    put(folder, "new.png")
    ended = done(*arguments, "--json")
    record = json.loads(ended.out)
    assert record.pop("latency_seconds") > 0
    assert record == records(out)[2]
    assert "1 image, 0 defective, 0 could not be read; " in ended.err


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
    ended = done("watch", "part.safetensors", folder, "--out", out, "--every", 0.01)
    assert "1 image, 0 defective, 0 could not be read; " in ended.out
    assert len(records(out)) == 1
    # A second signal would have ended it at once.
    assert then == [handler]
    assert signal.getsignal(number) is handler


@pytest.mark.usefixtures("model")
def test_the_command_tells_failures(folder: Path, out: Path) -> None:
    with lock_folder(out):
        assert failure("watch", "part.safetensors", folder, "--out", out) == (
            f"{out}: another watch writes its results here; stop it, or choose another output folder"
        )
    nowhere = folder / "none"
    said = failure("watch", "part.safetensors", nowhere, "--out", out)
    assert said == f"{nowhere}: the folder to watch does not exist; check the path"


def test_a_real_model_gives_the_scores_of_predict(dataset: Path, washer_model: Path, folder: Path, out: Path) -> None:
    judged = sorted((dataset / "test" / "blot").iterdir())
    for image in judged:
        (folder / image.name).write_bytes(image.read_bytes())
    done("watch", washer_model, folder, "--out", out, "--device", "cpu", "--every", 0.01, "--until-idle", 0)
    found = {line["path"]: line["score"] for line in records(out)}
    predicted = pp.Detector.load(washer_model, device="cpu").predict(judged)
    assert found == {path.name: each.score for path, each in zip(judged, predicted, strict=True)}
