"""A folder that is watched: each image that arrives is judged once, however often the watch is killed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from patchcore_plugin.data.atomic import delete_unfinished
from patchcore_plugin.data.datasets.files import PICTURES, RESULTS
from patchcore_plugin.data.images import read_image
from patchcore_plugin.errors import DatasetError, ImageError, ResultsError

from .journal import locked, read_back, sync_folder
from .polling import Arrival, Arrivals, Identity
from .runner import Judge
from .writer import JUDGED_AT, PredictionLike, ResultsWriter

STEP = 0.1
"""A wait is cut into steps of so many seconds, and `stop` is asked between them."""


class Model(Judge, Protocol):
    """The part of a model that a watch uses."""

    @property
    def map_scale(self) -> tuple[float, float]: ...  # noqa: D102


class Done(NamedTuple):
    """An image that is done.

    Parameters
    ----------
    record
        Its line of ``results.jsonl``; one with ``error`` could not be read.
    seconds
        From when it was first seen with its final size and time until its line was on the disk.
    """

    record: Mapping[str, Any]
    seconds: float


class Watch:
    """Judges the images that are in a folder and those that arrive, each once.

    What ``results.jsonl`` has is done and is not judged again, so that a watch which was killed goes on where it was.
    An image is judged when its size and time are the same in two looks. A file that changes later is another image;
    one that is gone before it was judged is forgotten.

    Parameters
    ----------
    model
        A fitted one.
    folder
        Where images arrive, in subfolders too; hidden files and folders are left out.
    out
        Where ``results.jsonl`` and the pictures go; made if it is missing.
    every
        Seconds between two looks.
    patience
        Seconds for which an image that cannot be read is tried again while it stays as it is; then it is recorded with
        its error.
    why
        As of `ResultsWriter`.
    announce
        Called with a line when the watch begins, and about folders that cannot be opened.

    Raises
    ------
    DatasetError
        If there is no such folder, or the results would go right into it.
    """

    def __init__(
        self,
        model: Model,
        folder: str | Path,
        out: str | Path,
        *,
        every: float = 1.0,
        patience: float = 5.0,
        why: Callable[[npt.NDArray[Any], Any], npt.NDArray[Any] | None] | None = None,
        announce: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.model = model
        self.folder, self.out = Path(folder), Path(out)
        self.every = every
        self.patience = patience
        self.why = why
        self.announce = announce
        if not self.folder.is_dir():
            raise DatasetError(f"{self.folder}: no such folder to watch; check the path")
        if self.folder.resolve() == self.out.resolve():
            raise DatasetError(f"{self.out}: its pictures would be watched too; give another folder for the results")

    def run(
        self, *, until_idle: float | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Generator[Done, None, None]:
        """Judge images, and yield each when its line is on the disk.

        Parameters
        ----------
        until_idle
            End when all is done and nothing arrived for so many seconds; None goes on.
        stop
            Asked after each image, and while waiting; the watch ends when it says True.

        Raises
        ------
        ResultsError
            If another watch writes there, or the ``results.jsonl`` that is there is damaged or not of a watch.
        """
        with locked(self.out):
            done = recorded(self.out / RESULTS)
            for pictures in PICTURES.values():
                # The lock says that nobody is at work on them.
                delete_unfinished(self.out / pictures, age=0)
            before = f"; {len(done)} images were done before" if done else ""
            self.announce(f"{self.folder}: watched every {self.every:g} s{before}")
            arrivals = Arrivals(self.folder, done, self.out, self.announce)
            with ResultsWriter(self.out, self.model.map_scale, append=True, why=self.why) as writer:
                sync_folder(self.out)
                sync_folder(self.out.parent)
                while not stop():
                    for arrival, record in self._judge(arrivals, writer):
                        yield Done(record, time.monotonic() - arrival.seen)
                        if stop():
                            return
                    idle = arrivals.idle()
                    if until_idle is not None and idle is not None and idle >= until_idle:
                        return
                    self._wait(stop)

    def _judge(self, arrivals: Arrivals, writer: ResultsWriter) -> Iterator[tuple[Arrival, dict[str, Any]]]:
        """Look once, judge what is ready, and yield what was recorded."""
        ready = arrivals.look()
        found = self.model.predict_each([self.folder / arrival.identity.path for arrival in ready], on_error="skip")
        for arrival, prediction in zip(ready, found, strict=True):
            record = self._record(arrival, prediction, arrivals, writer)
            if record is not None:
                arrivals.finish(arrival.identity)
                yield arrival, record

    def _record(
        self, arrival: Arrival, found: PredictionLike | ImageError, arrivals: Arrivals, writer: ResultsWriter
    ) -> dict[str, Any] | None:
        """Write what was found in an image; None if it is gone, or may not be whole yet."""
        identity, pixels = arrival.identity, None
        if not isinstance(found, ImageError) and found.anomaly_map is not None:
            try:
                pixels = read_image(self.folder / identity.path)
            except ImageError as error:
                found = error
        # What was read while it changed is not what was identified.
        if arrivals.identify(identity.path) != identity:
            return None
        about = {**identity._asdict(), JUDGED_AT: datetime.now(timezone.utc).isoformat(timespec="milliseconds")}
        if not isinstance(found, ImageError):
            return writer.write(found, pixels, name=picture_name(identity), **about)
        if time.monotonic() - arrival.seen < self.patience:
            return None
        record = {**about, "error": str(found).removesuffix(", or pass --on-error skip")}
        writer.record(record)
        return record

    def _wait(self, stop: Callable[[], bool]) -> None:
        # No event is waited for, because one must not be set by a signal's handler.
        end = time.monotonic() + self.every
        while not stop() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, STEP))


def recorded(file: Path) -> set[Identity]:
    """Return the images that a watch's ``results.jsonl`` has, after cutting off what a killed one left unfinished.

    Raises
    ------
    ResultsError
        If it is damaged elsewhere, or another command wrote it.
    """
    done = set()
    for number, record in enumerate(read_back(file), start=1):
        try:
            done.add(Identity(str(record["path"]), int(record["size"]), int(record["mtime_ns"])))
        except (KeyError, TypeError, ValueError):
            raise ResultsError(
                f"{file}, line {number}: no image of a watch; move the file away, or give another folder"
            ) from None
    return done


def picture_name(identity: Identity) -> str:
    """Return what an image's pictures are called: always the same, and not as those of any other image."""
    digest = hashlib.sha256("\0".join(map(str, identity)).encode(errors="backslashreplace")).hexdigest()
    return f"{PurePosixPath(identity.path).with_suffix('')}-{digest[:12]}"
