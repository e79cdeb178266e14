"""Atomic writes: a file is complete or absent, even if the writing process is killed."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DAY = 24 * 60 * 60
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.tmp")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Replace a file atomically when the block ends.

    If the block raises, the new file is deleted and the previous one stays.

    Parameters
    ----------
    path : Path
        The file to create or replace; its folder must exist.

    Yields
    ------
    Path
        The path to write to, in a hidden folder next to `path`.

    Raises
    ------
    OSError
        If the block wrote no file, or the file cannot be moved to `path`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "notes.txt"
    ...     with atomic_write(path) as unfinished:
    ...         _ = unfinished.write_text("complete")
    ...     path.read_text()
    'complete'
    """
    # A rename is atomic within one file system only, so the folder lies next to the file. It is a folder because
    # libraries may create further temporary files next to the one that they write.
    folder = path.with_name(f".{uuid.uuid4().hex}.tmp")
    folder.mkdir()
    try:
        yield folder / path.name
        (folder / path.name).replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def delete_unfinished(folder: Path, age: float = DAY) -> None:
    """Delete what killed processes left in the middle of `atomic_write`; errors are ignored.

    Parameters
    ----------
    folder : Path
        The folder of the files; subfolders are not searched. It may be missing.
    age : float
        Seconds since the write began. Younger ones stay, because another process may still be writing them.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _UNFINISHED.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime >= age:
                        shutil.rmtree(entry)
