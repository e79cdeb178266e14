"""A ``results.jsonl`` that goes on where a killed run left it: read again, mended at its end, locked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from patchcore_plugin.errors import ResultsError


def read_back(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file of JSON lines, and cut off a last one that is not whole.

    Only the last line can be the trace of a run that was killed: one without an end, or that is no JSON.

    Parameters
    ----------
    path
        The file; one that is not there has no records.

    Raises
    ------
    ResultsError
        If any other line is no JSON object; nothing is changed then.
    """
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return
    with file:
        whole, damaged = 0, 0
        for number, line in enumerate(file, start=1):
            if damaged:
                raise ResultsError(
                    f"{path}, line {damaged}: damaged, and not the last line, so that no killed run explains it; "
                    "mend or move the file, or give another folder"
                )
            record = _record(line)
            if record is None:
                damaged = number
            else:
                whole += len(line)
                yield record
        if damaged:
            file.truncate(whole)
            os.fsync(file.fileno())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from writing results into a folder, which is made if it is missing.

    The system frees the lock when the process ends, however it ends.

    Raises
    ------
    ResultsError
        If another process, or another part of this one, holds the lock.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ResultsError(
            f"{folder}: another watch writes its results here; end it, or give this one another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Force onto the disk which files a folder has, where the system lets programs do that."""
    with suppress(OSError):
        entry = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)


def _record(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
