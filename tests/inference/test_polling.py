"""Images that arrive in a folder: which are complete, and which are checked again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from patchcore_plugin.inference import polling
from patchcore_plugin.inference.polling import FileVersion, FolderPoller
from tests.inference.watched_model import png, put


def make_poller(folder: Path, out: Path, announce: Callable[[str], object] = lambda line: None) -> FolderPoller:
    return FolderPoller(folder, [], out, announce)


def test_unchanged_image_is_complete(folder: Path, out: Path) -> None:
    poller = make_poller(folder, out)
    assert poller.idle_seconds() is not None
    path = put(folder, "a.png")
    assert poller.poll() == []
    assert poller.idle_seconds() is None
    (image,) = poller.poll()
    assert image.version == FileVersion("a.png", path.stat().st_size, path.stat().st_mtime_ns)
    with path.open("ab") as file:
        file.write(b"more")
    assert poller.poll() == []
    (changed,) = poller.poll()
    assert changed.first_seen > image.first_seen
    poller.mark_recorded(changed.version)
    assert poller.poll() == []
    assert poller.idle_seconds() is not None


def test_deleted_image_is_no_longer_pending(folder: Path, out: Path) -> None:
    poller = make_poller(folder, out)
    path = put(folder, "b.png")
    poller.poll()
    path.unlink()
    assert poller.poll() == []
    assert poller.idle_seconds() is not None


def test_recorded_images_are_rechecked_in_turn(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "RECHECKS_PER_POLL", 5)
    checked: list[str] = []
    current_version = FolderPoller.current_version

    def check(self: FolderPoller, path: str) -> FileVersion | None:
        checked.append(path)
        return current_version(self, path)

    monkeypatch.setattr(FolderPoller, "current_version", check)
    paths = [put(folder, f"{number}.png") for number in range(40)]
    poller = make_poller(folder, out)
    poller.poll()
    for image in poller.poll():
        poller.mark_recorded(image.version)
    checked.clear()
    for _ in range(9):
        before = len(checked)
        poller.poll()
        assert len(checked) - before < 20
    assert sorted(checked) == sorted(path.name for path in paths)
    paths[3].write_bytes(png(1, size=(9, 9)))
    assert {image.version.path for _ in range(10) for image in poller.poll()} == {"3.png"}


def test_inaccessible_folder_is_announced_once(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "closed/a.png")
    put(folder, "b.png")
    closed = [True]
    walk = os.walk

    def walk_partly(top: Path, onerror: Callable[[OSError], object], followlinks: bool) -> Iterator[Any]:
        for parent, folders, names in walk(top, onerror=onerror, followlinks=followlinks):
            if closed[0] and "closed" in folders:
                folders.remove("closed")
                onerror(PermissionError(errno.EACCES, "Permission denied", str(folder / "closed")))
            yield parent, folders, names

    monkeypatch.setattr(os, "walk", walk_partly)
    lines: list[str] = []
    poller = make_poller(folder, out, lines.append)
    for _ in range(3):
        complete = [image.version.path for image in poller.poll()]
    assert complete == ["b.png"]
    (line,) = lines
    assert line.startswith(f"{folder / 'closed'}: ")
    assert "Permission denied" in line
    closed[0] = False
    poller.poll()
    assert {image.version.path for image in poller.poll()} == {"b.png", "closed/a.png"}
    closed[0] = True
    poller.poll()
    assert lines == [line, line]
