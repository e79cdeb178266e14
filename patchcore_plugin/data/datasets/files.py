"""Find images in files, folders and lists."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import NoReturn

from patchcore_plugin.errors import DatasetError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of files that are taken for images when a folder is searched, in lower case."""

RESULTS = "results.jsonl"
"""What a run writes a line into for each image."""
PICTURES = {"map": "heat_maps", "overlay": "overlays", "why": "why"}
"""Folders beside it with the pictures that are drawn, by what they are; these are no images."""

_LIST_SUFFIX = ".txt"


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """Return the images that files, folders and lists name.

    Parameters
    ----------
    inputs : sequence of Path
        Each is an image (of any suffix); a folder, which is searched with its subfolders for files that have
        one of `IMAGE_SUFFIXES` and are not hidden; or a `.txt` file with one path a line, relative to the
        folder of the list, whose blank lines and lines that start with `#` are skipped. Pictures beside a
        ``results.jsonl``, which an earlier run drew, are no images of a folder.

    Returns
    -------
    list of Path
        In the order of `inputs`; within a folder in natural order (`2.png` before `10.png`). A file that is
        named twice is returned once, where it came first.

    Raises
    ------
    DatasetError
        A path does not exist, a list cannot be read, or there is no image in one of the inputs.
    """
    if not inputs:
        raise DatasetError("no images given; name files, folders, or .txt lists of paths")
    found: dict[Path, Path] = {}
    for entry in map(Path, inputs):
        for image in _images_of(entry):
            found.setdefault(image.resolve(), image)
    return list(found.values())


def search(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders, in natural order; links to folders are followed."""
    return sorted(map(Path, walk(folder, _closed)), key=by_path)


def walk(folder: Path, on_error: Callable[[OSError], object], *, leave_out: Path | None = None) -> Iterator[str]:
    """Yield the images in a folder and its subfolders, in any order, each folder once; links to folders are followed.

    Pictures that an earlier run drew of images, beside its results, are left out.

    Parameters
    ----------
    folder
        What all paths start with.
    on_error
        Called with the error of a folder that cannot be opened.
    leave_out
        A folder that is not looked into.
    """
    visited = set() if leave_out is None else {leave_out.resolve()}
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        real = Path(parent).resolve()
        if real in visited:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(real)
        drawn = PICTURES.values() if RESULTS in files else ()
        folders[:] = sorted((name for name in folders if not name.startswith(".") and name not in drawn), key=natural)
        # Strings, because a watched folder is gone through again and again.
        start = os.path.join(parent, "")  # noqa: PTH118
        yield from (start + name for name in files if _is_image(name))


def images_in(folder: Path) -> list[Path]:
    """Return the images right in a folder, in natural order."""
    return sorted((entry for entry in _entries(folder) if _is_image(entry.name)), key=by_path)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders right in a folder that are not hidden, in natural order."""
    found = [entry for entry in _entries(folder) if not entry.name.startswith(".") and entry.is_dir()]
    return sorted(found, key=by_path)


def require_images(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders, at least one."""
    images = search(folder)
    if not images:
        raise DatasetError(f"{folder}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
    return images


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


def _images_of(entry: Path) -> list[Path]:
    """Return the images of one input, at least one."""
    if entry.is_dir():
        return require_images(entry)
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
    images: list[Path] = []
    for number, line in enumerate(lines, start=1):
        text = _path_in(line)
        if not text:
            continue
        image = file.parent / text
        if not image.is_file():
            raise DatasetError(f"{file}, line {number}: no such file: {image}")
        images.append(image)
    if not images:
        raise DatasetError(f"{file}: no paths in this list; write one image a line")
    return images


def read_paths(stream: BufferedIOBase, *, null: bool = False) -> Iterator[list[Path]]:
    """Yield the paths of a list while it is being written, each time those that are there; none is checked.

    Parameters
    ----------
    stream
        Such as standard input. It is waited for where it has no whole line.
    null
        Whether a path ends with a NUL byte and is taken as it is, as ``find -print0`` writes it. Otherwise it is a
        line, as in a `.txt` list.
    """
    end, rest, chunk = b"\0" if null else b"\n", b"", b"more"
    while chunk:
        chunk = stream.read1(1 << 16)
        *whole, rest = (rest + chunk).split(end)
        texts = map(os.fsdecode, whole if chunk else [*whole, rest])
        paths = [text if null else _path_in(text.removeprefix("\ufeff")) for text in texts]
        if any(paths):
            yield [Path(path) for path in paths if path]


def _path_in(line: str) -> str:
    """Return the path in a line of a list; nothing for a blank line or a comment."""
    text = line.strip()
    return "" if text.startswith("#") else text


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        _closed(error)


def _closed(error: OSError) -> NoReturn:
    raise DatasetError(f"{error.filename}: cannot be opened ({error.strerror}); check its permissions") from error
