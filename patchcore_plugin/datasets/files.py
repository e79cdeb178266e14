"""Find photos in files, folders and lists."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from patchcore_plugin.errors import DatasetError

PHOTO_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of files that are taken for photos when a folder is searched, in lower case."""

_LIST_SUFFIX = ".txt"


def find_photos(inputs: Sequence[Path]) -> list[Path]:
    """Return the photos that files, folders and lists name.

    Parameters
    ----------
    inputs : sequence of Path
        Each is a photo (of any suffix); a folder, which is searched with its subfolders for files that have
        one of `PHOTO_SUFFIXES` and are not hidden; or a `.txt` file with one path a line, relative to the
        folder of the list, whose blank lines and lines that start with `#` are skipped.

    Returns
    -------
    list of Path
        In the order of `inputs`; within a folder in natural order (`2.png` before `10.png`). A file that is
        named twice is returned once, where it came first.

    Raises
    ------
    DatasetError
        A path does not exist, a list cannot be read, or there is no photo in one of the inputs.
    """
    if not inputs:
        raise DatasetError("no photos given; name files, folders, or .txt lists of paths")
    found: dict[Path, Path] = {}
    for entry in map(Path, inputs):
        for photo in _photos_of(entry):
            found.setdefault(photo.resolve(), photo)
    return list(found.values())


def search(folder: Path) -> list[Path]:
    """Return the photos in a folder and its subfolders, in natural order; links to folders are followed."""
    photos: list[Path] = []
    visited: set[Path] = set()
    for parent, folders, files in os.walk(folder, onerror=_closed, followlinks=True):
        real = Path(parent).resolve()
        if real in visited:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
        photos += [Path(parent, name) for name in files if _is_photo(name)]
    return sorted(photos, key=by_path)


def photos_in(folder: Path) -> list[Path]:
    """Return the photos right in a folder, in natural order."""
    return sorted((entry for entry in _entries(folder) if _is_photo(entry.name)), key=by_path)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders right in a folder that are not hidden, in natural order."""
    found = [entry for entry in _entries(folder) if not entry.name.startswith(".") and entry.is_dir()]
    return sorted(found, key=by_path)


def require_photos(folder: Path) -> list[Path]:
    """Return the photos in a folder and its subfolders, at least one."""
    photos = search(folder)
    if not photos:
        raise DatasetError(f"{folder}: no photos in this folder ({', '.join(PHOTO_SUFFIXES)})")
    return photos


def named(folder: Path) -> Path:
    """Return a folder by a path that ends in its name, which `.` and `..` do not."""
    return folder if folder.name not in ("", "..") else folder.resolve()


def natural(text: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a sort key that compares runs of digits as numbers, and all else without regard to case."""
    # The text itself breaks ties such as `1.png` and `01.png`, so that the order never depends on the disk.
    parts = re.findall(r"[0-9]+|[^0-9]+", text.casefold())
    return [(False, int(part), "") if part[0] in "0123456789" else (True, 0, part) for part in parts], text


def by_path(path: Path) -> list[tuple[list[tuple[bool, int, str]], str]]:
    """Return the sort key of a path: that of its parts, one after the other."""
    return [natural(part) for part in path.parts]


def _photos_of(entry: Path) -> list[Path]:
    """Return the photos of one input, at least one."""
    if entry.is_dir():
        return require_photos(entry)
    if not entry.exists():
        raise DatasetError(f"{entry}: no such file or folder; check the path")
    return _listed(entry) if entry.suffix.lower() == _LIST_SUFFIX else [entry]


def _listed(file: Path) -> list[Path]:
    """Return the paths in a list, at least one, each of an existing file."""
    try:
        # Editors on Windows start a file with a byte-order mark.
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: not a readable list of paths ({error}); save it as UTF-8 text") from None
    photos: list[Path] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        photo = file.parent / text
        if not photo.is_file():
            raise DatasetError(f"{file}, line {number}: no such file: {photo}")
        photos.append(photo)
    if not photos:
        raise DatasetError(f"{file}: no paths in this list; write one photo a line")
    return photos


def _is_photo(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(PHOTO_SUFFIXES)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        _closed(error)


def _closed(error: OSError) -> NoReturn:
    raise DatasetError(f"{error.filename}: cannot be opened ({error.strerror}); check its permissions") from error
