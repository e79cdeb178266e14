"""Images that arrive in a folder: which are ready, and which are looked at again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from patchcore_plugin.inference import polling as arrivals
from patchcore_plugin.inference.polling import Arrivals, Identity
from tests.inference.watched_model import png, put


def test_a_image_that_stands_still_is_ready(folder: Path, out: Path) -> None:
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


def test_images_that_are_done_are_asked_again_in_turn(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
