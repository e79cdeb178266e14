"""Files that are there whole or not at all, also when the process that writes one is killed."""

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
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, in a hidden folder beside `path`; at the end the file takes the place of `path`.

    If anything is raised it is deleted, and what was at `path` stays.

    Raises
    ------
    OSError
        If there is no file then, or it cannot take the place.
    """
    # Beside it, since a rename is atomic only within one file system; in a folder of its own, since a library that
    # writes may have unfinished files itself.
    folder = path.with_name(f".{uuid.uuid4().hex}.tmp")
    folder.mkdir()
    try:
        yield folder / path.name
        (folder / path.name).replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def delete_unfinished(folder: Path, age: float = DAY) -> None:
    """Delete what `replacing` left in a folder when its process was killed.

    What cannot be deleted stays, and the folder need not be there.

    Parameters
    ----------
    folder
        Its subfolders are not looked into.
    age
        Seconds since it was begun: a younger one may be somebody's at work.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _UNFINISHED.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime >= age:
                        shutil.rmtree(entry)
