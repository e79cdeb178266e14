"""Measures one recipe on one category in a process of its own.

So each pair starts alike: nothing is loaded, cached or warmed up by the pair before it, the peak of memory is its own,
and if the system kills it for want of memory, the others go on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from patchcore_plugin.errors import PatchcoreError

from . import setup

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category
    from patchcore_plugin.evaluation.results import CategoryResult

SAVE_MEMORY = "take fewer images, lower preprocessing.size, or choose a backbone with fewer channels"


@dataclass(frozen=True)
class Pair:
    """What is to be measured."""

    wanted: setup.Setup
    blocked: setup.Blocked
    name: str
    category: Category
    folder: Path
    on_error: Literal["stop", "skip"]


def measure(pair: Pair, progress: Callable[[str, int, int], object]) -> CategoryResult:
    """Return what the process finds; PatchcoreError if it fails or is killed."""
    from patchcore_plugin.evaluation.results import CategoryResult

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(pair, theirs))
    process.start()
    theirs.close()
    try:
        while True:
            message = ours.recv()
            if isinstance(message, CategoryResult):
                return message
            if isinstance(message, str):
                raise PatchcoreError(message)
            stage, done, total = message
            progress(f"{pair.name}, {stage}", done, total)
    except EOFError:
        process.join()
        raise PatchcoreError(_ended(process.exitcode or 0)) from None
    finally:
        process.kill()
        process.join()


def _ended(code: int) -> str:
    if code == -9:
        return f"its process was killed, as the system does when memory runs out; {SAVE_MEMORY}"
    return f"its process ended at once, with exit code {code}; run it alone, with --recipe and --category, to see why"


def _work(pair: Pair, connection: Connection) -> None:
    """Run in the process: send progress, and at last the result, or why there is none."""
    # Ctrl-C reaches both processes; the other one ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from patchcore_plugin.evaluation.measurement import evaluate_category
    from patchcore_plugin.evaluation.peak_memory import peak_gpu_memory, peak_memory

    try:
        found = evaluate_category(
            pair.category,
            pair.wanted.detector(pair.blocked.host()),
            pair.folder,
            on_error=pair.on_error,
            progress=lambda stage, done, total: connection.send((stage, done, total)),
            probe=lambda: {"peak_memory_bytes": peak_memory(), "peak_gpu_memory_bytes": peak_gpu_memory()},
        )
    except PatchcoreError as error:
        connection.send(str(error))
    except Exception as error:
        # A bug, or memory that could not be had: the traceback for whoever looks into it, a line for the table.
        traceback.print_exc()
        first = (str(error).strip() or "no details").splitlines()[0]
        connection.send(f"{type(error).__name__}: {first}")
    else:
        connection.send(found)


def _end_with_parent() -> None:
    """Do not go on when nobody waits for the result any more, and another run may write to the same folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
