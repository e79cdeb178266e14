"""Images that arrive in a folder: which there are, which are whole, and which are done."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from patchcore_plugin.data.datasets.files import walk

RECHECKED = 1000
"""How many images that are done are asked for their size and time in each look, in turn: asking for 100,000 each time
is too much for a network share."""


class Identity(NamedTuple):
    """An image as it was at one time: a file that is written anew is another image.

    Parameters
    ----------
    path
        Within the watched folder, with ``/`` between its parts.
    size, mtime_ns
        Bytes, and the time of the last change.
    """

    path: str
    size: int
    mtime_ns: int


class Arrival(NamedTuple):
    """An image that is to be judged, and when it was first seen as it is, by the monotonic clock."""

    identity: Identity
    seen: float


class Arrivals:
    """The images of a folder and its subfolders that are not done; hidden files and folders are left out.

    Only names, sizes and times are looked at, again and again, which works on network shares too.

    Parameters
    ----------
    folder
        Where images arrive.
    done
        Those that are done already.
    leave_out
        A folder that is not looked into.
    announce
        Called with a line about a folder that cannot be opened, once until it can be again.
    """

    def __init__(
        self, folder: Path, done: Iterable[Identity], leave_out: Path, announce: Callable[[str], object]
    ) -> None:
        self._folder = folder
        self._leave_out = leave_out
        self._announce = announce
        self._done = set(done)
        self._known = {identity.path for identity in self._done}
        self._waiting: dict[str, Arrival] = {}
        self._closed: dict[str, str] = {}
        self._looks = 0
        self._last = time.monotonic()

    def look(self) -> list[Arrival]:
        """Return the images that are as they were in the look before, oldest first."""
        before, self._waiting = self._waiting, {}
        self._looks += 1
        turns = 1 + len(self._known) // RECHECKED
        ready: list[Arrival] = []
        for path in self._images():
            if path in self._known and path not in before and (hash(path) + self._looks) % turns:
                continue
            identity = self.identify(path)
            if identity is None or identity in self._done:
                continue
            arrival = before.get(path)
            if arrival is not None and arrival.identity == identity:
                ready.append(arrival)
            else:
                arrival = Arrival(identity, time.monotonic())
                self._last = arrival.seen
            self._waiting[path] = arrival
        return sorted(ready, key=lambda arrival: (arrival.identity.mtime_ns, arrival.identity.path))

    def identify(self, path: str) -> Identity | None:
        """Return what an image is now; None for one that is gone, and for what is no file."""
        try:
            about = (self._folder / path).stat()
        except OSError:
            return None
        return Identity(path, about.st_size, about.st_mtime_ns) if stat.S_ISREG(about.st_mode) else None

    def finish(self, identity: Identity) -> None:
        """Count an image as done."""
        self._done.add(identity)
        self._known.add(identity.path)
        self._waiting.pop(identity.path, None)
        self._last = time.monotonic()

    def idle(self) -> float | None:
        """Return the seconds since something arrived or was done; None while an image waits."""
        return None if self._waiting else time.monotonic() - self._last

    def _images(self) -> Iterator[str]:
        errors: list[OSError] = []
        start = len(os.path.join(self._folder, ""))  # noqa: PTH118
        for path in walk(self._folder, errors.append, leave_out=self._leave_out):
            yield path[start:].replace(os.sep, "/")
        closed = {str(error.filename): error.strerror or str(error) for error in errors}
        for name in closed.keys() - self._closed.keys():
            self._announce(f"{name}: cannot be opened ({closed[name]}); going on, and trying it again")
        self._closed = closed
