"""New images in a folder: which exist, which are complete, and which are already recorded."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from patchcore_plugin.data.datasets.files import walk

RECHECKS_PER_POLL = 1000
"""Number of recorded images whose size and time are checked in each poll, in turn. Checking 100,000 files every time is
too slow on a network share."""


class FileVersion(NamedTuple):
    """One version of an image file. A file that is rewritten is a new version.

    Parameters
    ----------
    path
        Relative to the watched folder, with ``/`` as separator.
    size, mtime_ns
        Bytes, and the time of the last change in nanoseconds.
    """

    path: str
    size: int
    mtime_ns: int


class PendingImage(NamedTuple):
    """An image that is not recorded yet.

    Parameters
    ----------
    version
        The file.
    first_seen
        Time of the first poll that found this version, on the monotonic clock, in seconds.
    """

    version: FileVersion
    first_seen: float


class FolderPoller:
    """Finds unrecorded images in a folder and its subfolders; hidden files and folders are ignored.

    It reads only names, sizes and times, which also works on network shares.

    Parameters
    ----------
    folder
        The watched folder.
    recorded
        Versions that are already recorded.
    ignore
        A folder that is not searched.
    announce
        Called with one line about a folder that cannot be opened, and again only after it could be opened.
    """

    def __init__(
        self, folder: Path, recorded: Iterable[FileVersion], ignore: Path, announce: Callable[[str], object]
    ) -> None:
        self._folder = folder
        self._ignore = ignore
        self._announce = announce
        self._recorded = set(recorded)
        self._recorded_paths = {version.path for version in self._recorded}
        self._pending: dict[str, PendingImage] = {}
        self._inaccessible: dict[str, str] = {}
        self._polls = 0
        self._last_change = time.monotonic()

    def poll(self) -> list[PendingImage]:
        """Search the folder and return the images that have not changed since the previous poll, oldest first."""
        previous, self._pending = self._pending, {}
        self._polls += 1
        turns = 1 + len(self._recorded_paths) // RECHECKS_PER_POLL
        complete: list[PendingImage] = []
        for path in self._paths():
            if path in self._recorded_paths and path not in previous and (hash(path) + self._polls) % turns:
                continue
            version = self.current_version(path)
            if version is None or version in self._recorded:
                continue
            image = previous.get(path)
            if image is not None and image.version == version:
                complete.append(image)
            else:
                image = PendingImage(version, time.monotonic())
                self._last_change = image.first_seen
            self._pending[path] = image
        return sorted(complete, key=lambda image: (image.version.mtime_ns, image.version.path))

    def current_version(self, path: str) -> FileVersion | None:
        """Return the present version of an image; None if it is missing or not a regular file."""
        try:
            status = (self._folder / path).stat()
        except OSError:
            return None
        return FileVersion(path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None

    def mark_recorded(self, version: FileVersion) -> None:
        """Exclude a version from further polls."""
        self._recorded.add(version)
        self._recorded_paths.add(version.path)
        self._pending.pop(version.path, None)
        self._last_change = time.monotonic()

    def idle_seconds(self) -> float | None:
        """Return the seconds since an image arrived or was recorded; None while images are pending."""
        return None if self._pending else time.monotonic() - self._last_change

    def _paths(self) -> Iterator[str]:
        errors: list[OSError] = []
        start = len(os.path.join(self._folder, ""))  # noqa: PTH118
        for path in walk(self._folder, errors.append, leave_out=self._ignore):
            yield path[start:].replace(os.sep, "/")
        inaccessible = {str(error.filename): error.strerror or str(error) for error in errors}
        for name in inaccessible.keys() - self._inaccessible.keys():
            self._announce(f"{name}: cannot be opened ({inaccessible[name]}); the watch continues and tries it again")
        self._inaccessible = inaccessible
