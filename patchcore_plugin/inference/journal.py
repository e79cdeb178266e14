"""A ``results.jsonl`` that survives a killed process: recovered records, a locked folder, synced entries."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from patchcore_plugin.errors import ResultsError


def recover_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON Lines file, then truncate an incomplete last line.

    A killed process can leave only the last line damaged: without a line end, or without valid JSON.

    Parameters
    ----------
    path
        The file. A missing file has no records.

    Yields
    ------
    dict
        The JSON object of each complete line.

    Raises
    ------
    ResultsError
        If any line but the last is not a JSON object. The file is not changed.
    """
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return
    with file:
        end, damaged_line = 0, 0
        for number, line in enumerate(file, start=1):
            if damaged_line:
                raise ResultsError(
                    f"{path}, line {damaged_line}: damaged, and not the last line, which an interrupted run could have "
                    "left incomplete; fix or move the file, or choose another output folder"
                )
            record = _parse(line)
            if record is None:
                damaged_line = number
            else:
                end += len(line)
                yield record
        if damaged_line:
            file.truncate(end)
            os.fsync(file.fileno())


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock an output folder against other watches; create it if it is missing.

    The operating system releases the lock when the process ends, even if it is killed.

    Raises
    ------
    ResultsError
        If another process, or another watch in this process, holds the lock.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ResultsError(
            f"{folder}: another watch writes its results here; stop it, or choose another output folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, on systems that allow it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a line; None if the line is incomplete or holds anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
