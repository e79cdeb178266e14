"""Atomic writes, and what killed processes leave behind."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from patchcore_plugin.data.atomic import DAY, atomic_write, delete_unfinished
from patchcore_plugin.data.images import write_png
from patchcore_plugin.evaluation.results import write_text
from patchcore_plugin.inference.writer import ResultsWriter
from patchcore_plugin.models import file as model_file

UNFINISHED = f".{'0a' * 16}.tmp"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def leave(folder: Path, name: str, age: float) -> Path:
    """Create half a file in a hidden folder that was created `age` seconds ago."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"half")
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_previous_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    path.write_text("old", encoding="utf-8")
    with atomic_write(path) as unfinished:
        unfinished.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
        assert unfinished.parent.parent == tmp_path
        assert unfinished.parent.name.startswith(".")
    assert path.read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == {path.name}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failed_write_leaves_the_previous_file_only(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")

    def fail() -> None:
        with atomic_write(path) as unfinished:
            unfinished.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(error):
        fail()
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass  # nothing was written
    assert (path.read_text(encoding="utf-8"), names(tmp_path)) == ("old", {"a.json"})


def test_full_disk_leaves_the_previous_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "report.html", "old")
    write = Path.write_text

    def half(path: Path, text: str, **options: str) -> int:
        write(path, text[: len(text) // 2], **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "report.html", "new and longer")
    assert (names(tmp_path), (tmp_path / "report.html").read_text(encoding="utf-8")) == ({"report.html"}, "old")


def test_only_old_unfinished_writes_are_deleted(tmp_path: Path) -> None:
    delete_unfinished(tmp_path / "none")
    old = leave(tmp_path, UNFINISHED, DAY + 60)
    others = [
        leave(tmp_path, f".{'0b' * 16}.tmp", DAY - 60),
        leave(tmp_path, ".camera.tmp", 9 * DAY),
        leave(tmp_path, ".0a0a.tmp", 9 * DAY),
        leave(tmp_path, UNFINISHED.removeprefix("."), 9 * DAY),
        leave(tmp_path, UNFINISHED + ".png", 9 * DAY),
        leave(tmp_path / "inner", UNFINISHED, 9 * DAY),
    ]
    file = tmp_path / f".{'0c' * 16}.tmp"
    file.write_bytes(b"foreign")
    os.utime(file, (0, 0))
    link = tmp_path / f".{'0d' * 16}.tmp"
    link.symlink_to(tmp_path / "inner")
    delete_unfinished(tmp_path)
    assert not old.exists()
    assert file.exists()
    assert link.exists()
    assert all(path.exists() for path in others)
    delete_unfinished(tmp_path, age=0)
    assert [path.exists() for path in others] == [False, True, True, True, True, True]


def test_save_deletes_what_a_killed_save_left(tmp_path: Path) -> None:
    killed = leave(tmp_path, UNFINISHED, 2 * DAY)
    unfinished = leave(tmp_path, f".{'0b' * 16}.tmp", 1)
    path = tmp_path / "m.safetensors"
    model_file.save(path, {"bank.vectors": torch.ones(2, 3)}, {"seed": 0})
    assert names(tmp_path) == {path.name, unfinished.name}
    assert not killed.exists()
    with (tmp_path / "other").open("xb"):
        expected = stat.S_IMODE((tmp_path / "other").stat().st_mode)
    # The same permissions as those of every new file.
    assert stat.S_IMODE(path.stat().st_mode) == expected
    assert model_file.load(path)[0]["bank.vectors"].sum() == 6


def test_prediction_run_deletes_drawings_that_a_killed_run_left(tmp_path: Path) -> None:
    killed = [leave(tmp_path / folder, UNFINISHED, 2 * DAY) for folder in ("heat_maps", "overlays", "why")]
    foreign = leave(tmp_path / "incoming", UNFINISHED, 2 * DAY)
    write_png(tmp_path / "overlays" / "a.png", np.zeros((2, 2), np.uint8))
    with ResultsWriter(tmp_path, (0.0, 1.0)):
        pass
    assert not any(path.exists() for path in killed)
    assert foreign.exists()
    assert names(tmp_path / "overlays") == {"a.png"}
