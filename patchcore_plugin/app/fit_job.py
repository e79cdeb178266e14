"""The fit job: at most one fit runs at a time, in a thread, and all pages show its progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from patchcore_plugin.errors import PatchcoreError, one_line

State = Literal["idle", "running", "done", "failed", "cancelled"]
THREAD_NAME = "patchcore-fit"


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """Settings of a fit.

    Parameters
    ----------
    folder
        Folder of the training images, as the user named it.
    images
        Images of good parts.
    recipe
        Name of a built-in recipe.
    backbone
        Backbone that replaces the one of the recipe, or None.
    rate
        False-alarm rate, or None for the default.
    thumbnails
        Whether the model stores thumbnails of the training images.
    """

    folder: str
    images: Sequence[Path]
    recipe: str
    backbone: str | None
    rate: float | None
    thumbnails: bool = False


class _CancelledError(Exception):
    """Ends the thread of a fit that was cancelled."""


class FitJob:
    """A fit in a background thread.

    Parameters
    ----------
    create_model
        Function that returns an unfitted model for a request.

    Attributes
    ----------
    state
        State of the latest fit.
    request
        Settings of the latest fit.
    stage, done, total
        Progress: name of the stage, and number of items done and in total.
    notes
        Notes of the fit for the user.
    error
        Message of a failed fit.
    seconds
        Duration of a finished fit.
    model
        The fitted model, until it is discarded.
    saved_path
        File to which the model was saved; set by the caller.
    """

    def __init__(self, create_model: Callable[[FitRequest], Any]) -> None:
        self._create_model = create_model
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.state: State = "idle"
        self.request: FitRequest | None = None
        self.stage, self.done, self.total = "", 0, 0
        self.notes: list[str] = []
        self.error: str | None = None
        self.seconds = 0.0
        self.model: Any = None
        self.saved_path: Path | None = None

    def start(self, request: FitRequest) -> None:
        """Start a fit.

        Raises
        ------
        PatchcoreError
            If a fit is running, or the last model is neither saved nor discarded.
        """
        with self._lock:
            if self.state == "running":
                raise PatchcoreError("another fit is running; wait for it to finish, or cancel it")
            if self.state == "done" and self.saved_path is None:
                raise PatchcoreError("the last fitted model is not saved; save or discard it first")
            self._stop.clear()
            self.state, self.request, self.error = "running", request, None
            self.stage, self.done, self.total, self.notes = "loading", 0, 0, []
            self.model, self.saved_path = None, None
            # A daemon, so that stopping the app does not wait for the fit.
            threading.Thread(target=self._run, args=(request,), name=THREAD_NAME, daemon=True).start()

    def cancel(self) -> None:
        """Stop the fit at its next progress report."""
        self._stop.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether the fit was cancelled; it may still be running."""
        return self._stop.is_set()

    def discard(self) -> None:
        """Delete the fitted model."""
        with self._lock:
            if self.state == "done":
                self.state, self.model = "idle", None

    def _run(self, request: FitRequest) -> None:
        start = time.perf_counter()
        try:
            model = self._create_model(request)
            model.fit(
                list(request.images),
                false_alarm_rate=request.rate,
                keep_thumbnails=request.thumbnails,
                progress=self._report,
                announce=self.notes.append,
            )
        except _CancelledError:
            self.state = "cancelled"
        except (PatchcoreError, OSError) as error:
            self.error, self.state = one_line(error), "failed"
        except BaseException as error:
            # A bug: the page shows the message, and the thread prints its traceback.
            self.error, self.state = f"{type(error).__name__}: {error}", "failed"
            raise
        else:
            self.seconds = time.perf_counter() - start
            self.model, self.state = model, "done"

    def _report(self, stage: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise _CancelledError
        self.stage, self.done, self.total = stage, done, total
