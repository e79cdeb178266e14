"""The one fit that runs at a time, in a thread; whoever opens the page sees how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from patchcore_plugin.errors import PatchcoreError

from .words import one_line

State = Literal["idle", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be fitted.

    Parameters
    ----------
    folder
        The folder of the images, as it was named.
    images
        Images of good parts.
    recipe
        Name of a shipped recipe.
    backbone
        A backbone in place of the recipe's, or None.
    rate
        The false-alarm rate, or None for the default.
    thumbnails
        Whether the model keeps small copies of the images.
    """

    folder: str
    images: Sequence[Path]
    recipe: str
    backbone: str | None
    rate: float | None
    thumbnails: bool = False


class _CancelledError(Exception):
    """The fit was told to end."""


class Fitting:
    """The fit job: `start` it, look at it, `cancel` it; save its `model`, or `discard` it.

    Parameters
    ----------
    make
        Returns a model that is not fitted yet, for what is wanted.
    """

    def __init__(self, make: Callable[[Wanted], Any]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.state: State = "idle"
        self.wanted: Wanted | None = None
        self.stage, self.done, self.total = "", 0, 0
        self.notes: list[str] = []
        self.error: str | None = None
        self.seconds = 0.0
        self.model: Any = None
        self.saved: Path | None = None

    def start(self, wanted: Wanted) -> None:
        """Begin a fit.

        Raises
        ------
        PatchcoreError
            If one is running, or its model is not saved: it may be another visitor's.
        """
        with self._lock:
            if self.state == "running":
                raise PatchcoreError("another fit is running; wait for it, or cancel it")
            if self.state == "done" and self.saved is None:
                raise PatchcoreError("the model that was fitted is not saved; save it, or discard it")
            self._stop.clear()
            self.state, self.wanted, self.error = "running", wanted, None
            self.stage, self.done, self.total, self.notes = "loading", 0, 0, []
            self.model, self.saved = None, None
            # Whoever stops the app need not wait for the fit.
            self._thread = threading.Thread(target=self._run, args=(wanted,), name="patchcore-fit", daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Let the fit end at its next step."""
        self._stop.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was told to end; it may still run."""
        return self._stop.is_set()

    def discard(self) -> None:
        """Let the fitted model go."""
        with self._lock:
            if self.state == "done":
                self.state, self.model = "idle", None

    def wait(self, seconds: float) -> None:
        """Wait until the fit has ended, so many seconds at most."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, wanted: Wanted) -> None:
        start = time.perf_counter()
        try:
            model = self._make(wanted)
            model.fit(
                list(wanted.images),
                false_alarm_rate=wanted.rate,
                keep_thumbnails=wanted.thumbnails,
                progress=self._progress,
                announce=self.notes.append,
            )
        except _CancelledError:
            self.state = "cancelled"
        except (PatchcoreError, OSError) as error:
            self.error, self.state = one_line(error), "failed"
        except BaseException as error:
            # A bug: told in the page, and by the thread's traceback.
            self.error, self.state = f"{type(error).__name__}: {error}", "failed"
            raise
        else:
            self.seconds = time.perf_counter() - start
            self.model, self.state = model, "done"

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise _CancelledError
        self.stage, self.done, self.total = stage, done, total
