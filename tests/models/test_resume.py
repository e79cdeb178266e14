"""Fits that are broken off go on: nothing is extracted twice, and the model is the same to the last bit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import patchcore_plugin as pp
from patchcore_plugin import cli
from patchcore_plugin.data.images import write_png
from patchcore_plugin.models.fitting.store import discard
from tests.models import tiny

ROOT = Path(__file__).parents[2]
KILLED = """
import sys
from patchcore_plugin import cli
import patchcore_plugin.cli.options as options
from tests.models import tiny
options.Host = lambda **_: tiny.host()
tiny.die_after.append(int(sys.argv.pop(1)))
cli.main()
"""


def fit(model: pp.Detector | pp.Detector, images: list[Path], out: Path, **options: Any) -> tuple[bytes, int]:
    """Return the model file, and how many images were extracted."""
    tiny.extracted.clear()
    model.fit(images, **options)
    model.save(out / "m.safetensors")
    return (out / "m.safetensors").read_bytes(), sum(tiny.extracted)


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr("patchcore_plugin.cli.options.Host", lambda **_: tiny.host())
    monkeypatch.setattr(sys, "argv", ["patchcore", *map(str, words)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    return int(done.value.code or 0)


def test_a_killed_fit_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write(tmp_path / "images", 50)
    words = ["fit", str(tmp_path / "images"), "--backbone", "tiny", "--device", "cpu", "--memory-budget", "0.4MB"]
    words += ["--set", "preprocessing.size=64,64"]
    whole, out = tmp_path / "whole.safetensors", tmp_path / "m.safetensors"
    assert run(monkeypatch, *words, "--out", whole) == 0
    killed = [sys.executable, "-c", KILLED, "4", *words, "--out", str(out), "--resume"]
    done = subprocess.run(killed, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = list((tmp_path / "m.safetensors.features").iterdir())
    assert len(kept) == 3
    assert not out.exists()
    tiny.extracted.clear()
    assert run(monkeypatch, *words, "--out", out, "--resume") == 0
    # With a budget, the first image tells what all will take; it is extracted once more.
    assert sum(tiny.extracted) == 50 - 3 * 8 + 1
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "m.safetensors.features").exists()


METHODS: dict[str, Callable[[], Any]] = {
    "patchcore": tiny.detector,
    "padim": lambda: tiny.detector("padim", aggregator={"channels": 8}),
    "spade": lambda: tiny.detector("spade", backbone={"name": "tiny", "levels": 2}),
    "dn2": lambda: tiny.detector("dn2"),
    "ensemble": lambda: pp.Detector(
        pp.Recipe.from_dict(
            {
                "name": "three",
                "preprocessing": {"size": [32, 32]},
                "members": [
                    {"recipe": "patchcore", "backbone": "tiny", "sampler": {"ratio": 0.2}},
                    {"recipe": "padim", "backbone": "tiny", "aggregator": {"channels": 8}},
                    {"recipe": "patchcore", "backbone": {"name": "tiny", "channels": 5}},
                ],
            }
        ),
        device="cpu",
        host=tiny.host(),
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_extracted_twice(name: str, tmp_path: Path) -> None:
    make, images = METHODS[name], tiny.write(tmp_path / "images", 21)
    images.insert(4, tmp_path / "images" / "no.png")
    images[4].write_text("no image")
    plain, _ = fit(make(), images, tmp_path, on_error="skip", keep_thumbnails=True)
    options: dict[str, Any] = {"on_error": "skip", "keep_thumbnails": True, "features": tmp_path / "kept"}
    first, extracted = fit(make(), images, tmp_path, **options)
    tried = {"ensemble": 2}.get(name, 0)  # each group of an ensemble is tried on an image, for its memory
    assert extracted == 21 * (2 if name == "ensemble" else 1) + tried
    model = make()
    again, extracted = fit(model, images, tmp_path, **options)
    assert extracted == tried
    assert first == plain
    assert again == plain
    assert [(error.path, str(images[4]) in str(error)) for error in model.skipped] == [(str(images[4]), True)]
    discard(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_only_what_is_the_same_is_taken(tmp_path: Path) -> None:
    images = tiny.write(tmp_path / "images", 20)
    kept = tmp_path / "kept"

    def extracted(model: pp.Detector, **options: Any) -> int:
        found, count = fit(model, images, tmp_path, features=kept, **options)
        assert found == fit(model, images, tmp_path, **options)[0]
        return count

    assert extracted(tiny.detector()) == 20
    assert extracted(tiny.detector(sampler={"ratio": 0.2}, scorer={"neighbours": 3})) == 0
    assert extracted(tiny.detector(backbone={"name": "tiny", "channels": 9})) == 20
    assert extracted(tiny.detector(aggregator={"patch_size": 1})) == 20
    assert extracted(tiny.detector(preprocessing={"size": [40, 32]})) == 20
    assert extracted(tiny.detector(), keep_thumbnails=True) == 20
    bf16 = pp.Detector(tiny.recipe(), device="cpu", precision="bf16", host=tiny.host())
    assert extracted(bf16) == 20
    # Another image in the place of the first, or the same one changed: its batch is extracted anew.
    before = images[0].stat()
    write_png(images[0], tiny.draw(50))
    os.utime(images[0], ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert extracted(tiny.detector()) == 8
    assert extracted(tiny.detector()) == 0


@pytest.mark.parametrize("damage", ["cut", "a bit", "empty", "other"])
def test_a_damaged_file_is_not_taken(tmp_path: Path, damage: str) -> None:
    images = tiny.write(tmp_path / "images", 20)
    plain, _ = fit(tiny.detector(), images, tmp_path)
    fit(tiny.detector(), images, tmp_path, features=tmp_path / "kept")
    paths = sorted((tmp_path / "kept").iterdir(), key=lambda path: path.stat().st_size)
    assert len(paths) == 4  # 8 + 8 + 2 that are not held out, and 2 that are
    content = paths[-1].read_bytes()
    new = {"cut": content[:-9], "empty": b"", "other": paths[0].read_bytes()}
    new["a bit"] = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    paths[-1].write_bytes(new[damage])
    again, extracted = fit(tiny.detector(), images, tmp_path, features=tmp_path / "kept")
    assert (again == plain, extracted) == (True, 8)


def test_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(pp.OptionError) as caught:
        tiny.detector().fit([tiny.draw(0), tiny.draw(1)], features=tmp_path / "kept")
    assert str(caught.value) == "features can be kept of images that are files, and some are arrays; write them first"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    images = tiny.write(tmp_path / "images", 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(pp.PatchcoreError, match=re.escape(f"{tmp_path / 'file'}: features cannot be kept (")) as caught:
        tiny.detector().fit(images, features=tmp_path / "file")
    assert str(caught.value).endswith("; free some space, or leave out --resume")


def test_what_else_is_in_the_folder_stays(tmp_path: Path) -> None:
    images = tiny.write(tmp_path / "images", 3)
    fit(tiny.detector(), images, tmp_path, features=tmp_path / "kept")
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    discard(tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]
    discard(tmp_path / "nothing")


def test_an_unreadable_image_stops_it_and_what_was_before_is_kept(tmp_path: Path) -> None:
    images = tiny.write(tmp_path / "images", 30)
    text = images[20].read_bytes()
    images[20].write_text("no image")
    with pytest.raises(pp.ImageError):
        tiny.detector().fit(images, features=tmp_path / "kept")
    images[20].write_bytes(text)
    again, extracted = fit(tiny.detector(), images, tmp_path, features=tmp_path / "kept")
    assert extracted == 30 - 16
    assert again == fit(tiny.detector(), images, tmp_path)[0]
