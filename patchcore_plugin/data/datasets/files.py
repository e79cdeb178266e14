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
"""Suffixes of image files in a searched folder, in lower case."""

RESULTS = "results.jsonl"
"""File to which a prediction run writes one line per image."""
PICTURES = {"map": "heat_maps", "overlay": "overlays", "why": "why"}
"""Folders next to `RESULTS` that hold the drawings of a run; a search of a folder skips them."""

_LIST_SUFFIX = ".txt"


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """Return the images in files, folders and lists.

    Parameters
    ----------
    inputs : sequence of Path
        Each is one of:

        - an image file of any suffix;
        - a folder, searched recursively for files with one of `IMAGE_SUFFIXES` that are not hidden. Drawings next to a
          ``results.jsonl`` of an earlier run are skipped;
        - a ``.txt`` list with one path per line, relative to the folder of the list. Blank lines and lines that start
          with ``#`` are skipped.

    Returns
    -------
    list of Path
        In the order of `inputs`; within a folder in natural order (``2.png`` before ``10.png``). Duplicates are
        returned once, at their first position.

    Raises
    ------
    DatasetError
        If a path does not exist, a list cannot be read, or an input has no images.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("10.png", "2.png", "notes.md"):
    ...         Path(folder, name).touch()
    ...     [image.name for image in find_images([Path(folder)])]
    ['2.png', '10.png']
    """
    if not inputs:
        raise DatasetError("no images given; name files, folders, or .txt lists of paths")
    images: dict[Path, Path] = {}
    for entry in map(Path, inputs):
        for image in _expand(entry):
            images.setdefault(image.resolve(), image)
    return list(images.values())


def search_folder(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders, in natural order; links to folders are followed."""
    return sorted(map(Path, walk(folder, _raise_closed)), key=path_key)


def walk(folder: Path, on_error: Callable[[OSError], object], *, leave_out: Path | None = None) -> Iterator[str]:
    """Yield the images in a folder and its subfolders in any order.

    Links to folders are followed, and each folder is visited once. Drawings next to the results of an earlier run are
    skipped.

    Parameters
    ----------
    folder : Path
        All paths start with it.
    on_error : callable
        Called with the error of each folder that cannot be opened.
    leave_out : Path, optional
        A folder to skip.

    Yields
    ------
    str
        Path of an image.
    """
    visited = set() if leave_out is None else {leave_out.resolve()}
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        real = Path(parent).resolve()
        if real in visited:  # a link to a parent folder would recurse forever
            folders.clear()
            continue
        visited.add(real)
        drawings = PICTURES.values() if RESULTS in files else ()
        visible = (name for name in folders if not name.startswith(".") and name not in drawings)
        folders[:] = sorted(visible, key=natural_key)
        # Strings are faster than paths, and a watched folder is searched again and again.
        start = os.path.join(parent, "")  # noqa: PTH118
        yield from (start + name for name in files if _is_image(name))


def list_images(folder: Path) -> list[Path]:
    """Return the images directly in a folder, in natural order."""
    return sorted((entry for entry in _list_entries(folder) if _is_image(entry.name)), key=path_key)


def list_subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in a folder that are not hidden, in natural order."""
    folders = (entry for entry in _list_entries(folder) if not entry.name.startswith(".") and entry.is_dir())
    return sorted(folders, key=path_key)


def require_images(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders.

    Raises
    ------
    DatasetError
        If there are none.
    """
    images = search_folder(folder)
    if not images:
        raise DatasetError(f"{folder}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
    return images


def ensure_name(folder: Path) -> Path:
    """Return the path of a folder that ends in its name; ``.`` and ``..`` are resolved."""
    return folder if folder.name not in ("", "..") else folder.resolve()


def natural_key(text: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a sort key that compares runs of digits as numbers, and letters regardless of case.

    Examples
    --------
    >>> sorted(["b10", "B9", "a"], key=natural_key)
    ['a', 'B9', 'b10']
    """
    # The text itself breaks ties such as `1.png` and `01.png`, so that the order never depends on the file system.
    parts = re.findall(r"[0-9]+|[^0-9]+", text.casefold())
    return [(False, int(part), "") if part[0] in "0123456789" else (True, 0, part) for part in parts], text


def path_key(path: Path) -> list[tuple[list[tuple[bool, int, str]], str]]:
    """Return the natural sort key of a path, part by part."""
    return [natural_key(part) for part in path.parts]


def read_paths(stream: BufferedIOBase, *, null: bool = False) -> Iterator[list[Path]]:
    r"""Yield paths from a stream as they arrive, in batches; the paths are not checked.

    Parameters
    ----------
    stream : BufferedIOBase
        For example, standard input. Reading blocks until a complete line arrives.
    null : bool
        Whether a NUL byte ends each path, as ``find -print0`` writes it; such paths are used as they are. Otherwise
        each line is a path or a comment, as in a ``.txt`` list.

    Yields
    ------
    list of Path
        At least one.

    Examples
    --------
    >>> from io import BytesIO
    >>> [[path.name for path in paths] for paths in read_paths(BytesIO(b"a.png\n# comment\nb.png"))]
    [['a.png'], ['b.png']]
    """
    end, rest, chunk = b"\0" if null else b"\n", b"", b"more"
    while chunk:
        chunk = stream.read1(1 << 16)
        *complete, rest = (rest + chunk).split(end)
        texts = map(os.fsdecode, complete if chunk else [*complete, rest])
        paths = [text if null else _strip_comment(text.removeprefix("\ufeff")) for text in texts]
        if any(paths):
            yield [Path(path) for path in paths if path]


def _expand(entry: Path) -> list[Path]:
    """Return the images of one input, at least one."""
    if entry.is_dir():
        return require_images(entry)
    if not entry.exists():
        raise DatasetError(f"{entry}: no such file or folder; check the path")
    return _read_list(entry) if entry.suffix.lower() == _LIST_SUFFIX else [entry]


def _read_list(file: Path) -> list[Path]:
    """Return the paths in a list, at least one, all of existing files."""
    try:
        # Windows editors start files with a byte-order mark.
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: not a readable list of paths ({error}); save it as UTF-8 text") from None
    images: list[Path] = []
    for number, line in enumerate(lines, start=1):
        text = _strip_comment(line)
        if not text:
            continue
        image = file.parent / text
        if not image.is_file():
            raise DatasetError(f"{file}, line {number}: no such file: {image}")
        images.append(image)
    if not images:
        raise DatasetError(f"{file}: no paths in this list; write one path per line")
    return images


def _strip_comment(line: str) -> str:
    """Return the path in a line of a list; empty for a blank line or a comment."""
    text = line.strip()
    return "" if text.startswith("#") else text


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def _list_entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        _raise_closed(error)


def _raise_closed(error: OSError) -> NoReturn:
    raise DatasetError(f"{error.filename}: cannot be opened ({error.strerror}); check its permissions") from error
