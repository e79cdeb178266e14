"""Evaluation of one recipe on one category in a separate process.

Each job starts from the same state: nothing is loaded or cached by an earlier job, and its peak memory is its own. If
the system kills the process because memory runs out, the other jobs still run.
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

from patchcore_plugin.errors import PatchcoreError, one_line

from .options import DetectorOptions, PluginFilter

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category
    from patchcore_plugin.evaluation.results import CategoryResult

SAVE_MEMORY = "use fewer images, lower preprocessing.size, or choose a backbone with fewer channels"


@dataclass(frozen=True)
class Job:
    """One recipe and one category.

    Parameters
    ----------
    options
        The detector to fit.
    plugins
        Plugins that the user excluded.
    name
        Name of the recipe, for progress lines.
    category
        The data.
    folder
        Where to write results and images.
    on_error
        How to handle an unreadable image.
    """

    options: DetectorOptions
    plugins: PluginFilter
    name: str
    category: Category
    folder: Path
    on_error: Literal["stop", "skip"]


def run_isolated(job: Job, progress: Callable[[str, int, int], object]) -> CategoryResult:
    """Evaluate a job in a new process.

    Parameters
    ----------
    job
        What to evaluate.
    progress
        Called in this process with the stage, and how many of how many units are complete.

    Raises
    ------
    PatchcoreError
        If the evaluation fails or the process dies.
    """
    from patchcore_plugin.evaluation.results import CategoryResult

    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_job, args=(job, sender))
    process.start()
    sender.close()
    try:
        while True:
            message = receiver.recv()
            if isinstance(message, CategoryResult):
                return message
            if isinstance(message, str):
                raise PatchcoreError(message)
            stage, done, total = message
            progress(f"{job.name}, {stage}", done, total)
    except EOFError:
        process.join()
        raise PatchcoreError(_describe_exit(process.exitcode or 0)) from None
    finally:
        process.kill()
        process.join()


def _describe_exit(code: int) -> str:
    if code == -9:  # SIGKILL, a name that Windows lacks
        return f"the process was killed, probably because memory ran out; {SAVE_MEMORY}"
    return f"the process exited with code {code}; run this --recipe and --category alone to see why"


def _run_job(job: Job, connection: Connection) -> None:
    """Send progress, then the result or the reason for the failure."""
    # Ctrl-C reaches both processes; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    from patchcore_plugin.evaluation.measurement import evaluate_category
    from patchcore_plugin.evaluation.peak_memory import peak_gpu_memory, peak_memory

    try:
        result = evaluate_category(
            job.category,
            job.options.create_detector(job.plugins.create_host()),
            job.folder,
            on_error=job.on_error,
            progress=lambda stage, done, total: connection.send((stage, done, total)),
            probe=lambda: {"peak_memory_bytes": peak_memory(), "peak_gpu_memory_bytes": peak_gpu_memory()},
        )
    except PatchcoreError as error:
        connection.send(one_line(error))
    except Exception as error:
        # A bug, or an allocation that failed: the traceback is for debugging, the line for the table.
        traceback.print_exc()
        first = (str(error).strip() or "no details").splitlines()[0]
        connection.send(f"{type(error).__name__}: {first}")
    else:
        connection.send(result)


def _exit_with_parent() -> None:
    """Exit when the parent dies: nothing reads the result, and a new run may write to the same folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
