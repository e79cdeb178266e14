"""A watched folder: every image that arrives is recorded once, even if the watch is killed and restarted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from patchcore_plugin.data.atomic import delete_unfinished
from patchcore_plugin.data.datasets.files import PICTURES, RESULTS
from patchcore_plugin.errors import DatasetError, ImageError, ResultsError

from .journal import lock_folder, recover_records, sync_folder
from .polling import FileVersion, FolderPoller, PendingImage
from .writer import ResultsWriter

if TYPE_CHECKING:
    from patchcore_plugin.models.prediction import Prediction

    from .runner import Predictor
    from .writer import Explain

STOP_CHECK_SECONDS = 0.1
"""Seconds between two calls of `stop` while the watch waits."""


class WatchResult(NamedTuple):
    """An image that a watch has recorded.

    Parameters
    ----------
    record
        Its line of ``results.jsonl``; has ``error`` if the image could not be read.
    latency
        Seconds from the first poll that found the image with its final size and time, until its line was on disk.
    """

    record: Mapping[str, Any]
    latency: float


class Watch:
    """Predicts the images that are in a folder and those that arrive, each once.

    Images with a line in ``results.jsonl`` are not predicted again, so a killed watch resumes where it stopped. An
    image is predicted when its size and time are the same in two polls. A file that changes later counts as a new
    image. A file that is deleted before it was predicted is ignored.

    Parameters
    ----------
    model
        A fitted model.
    folder
        The watched folder, including subfolders. Hidden files and folders are ignored.
    out
        Folder for ``results.jsonl`` and pictures; created if missing.
    every
        Seconds between two polls.
    patience
        Seconds during which an unreadable image that does not change is tried again before its error is recorded.
    explain
        Returns the explanation picture of a defective image; see `ResultsWriter`.
    announce
        Called with one line when the watch starts, and about folders that cannot be opened.

    Raises
    ------
    DatasetError
        If the folder does not exist, or is also the output folder.
    """

    def __init__(
        self,
        model: Predictor,
        folder: str | Path,
        out: str | Path,
        *,
        every: float = 1.0,
        patience: float = 5.0,
        explain: Explain | None = None,
        announce: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.model = model
        self.folder, self.out = Path(folder), Path(out)
        self.every = every
        self.patience = patience
        self.explain = explain
        self.announce = announce
        if not self.folder.is_dir():
            raise DatasetError(f"{self.folder}: the folder to watch does not exist; check the path")
        if self.folder.resolve() == self.out.resolve():
            raise DatasetError(
                f"{self.out}: results in the watched folder would be watched too; choose another output folder"
            )

    def run(
        self, *, until_idle: float | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Generator[WatchResult, None, None]:
        """Predict images, and yield each when its line is on disk.

        Parameters
        ----------
        until_idle
            Stop when no image is pending and none has arrived for this number of seconds; None runs forever.
        stop
            Called after each image and while waiting; the watch stops when it returns True.

        Yields
        ------
        WatchResult
            The record of each image, and its latency.

        Raises
        ------
        ResultsError
            If another watch writes to the output folder, or its ``results.jsonl`` is damaged or not written by a watch.
        """
        with lock_folder(self.out):
            recorded = recorded_versions(self.out / RESULTS)
            for pictures in PICTURES.values():
                # No other process writes to a locked folder, so every unfinished file is a leftover.
                delete_unfinished(self.out / pictures, age=0)
            resumed = f"; {len(recorded)} images are already recorded" if recorded else ""
            self.announce(f"watching {self.folder}, every {self.every:g} s{resumed}")
            poller = FolderPoller(self.folder, recorded, self.out, self.announce)
            with ResultsWriter(self.out, self.model.map_scale, append=True, explain=self.explain) as writer:
                sync_folder(self.out)
                sync_folder(self.out.parent)
                while not stop():
                    for image, record in self._predict_pending(poller, writer):
                        yield WatchResult(record, time.monotonic() - image.first_seen)
                        if stop():
                            return
                    idle = poller.idle_seconds()
                    if until_idle is not None and idle is not None and idle >= until_idle:
                        return
                    self._wait(stop)

    def _predict_pending(
        self, poller: FolderPoller, writer: ResultsWriter
    ) -> Iterator[tuple[PendingImage, dict[str, Any]]]:
        """Poll once, predict the complete images, and yield those that were recorded."""
        images = poller.poll()
        paths = [self.folder / image.version.path for image in images]
        outcomes = self.model.predict_each(paths, on_error="skip", keep_pixels=True)
        for image, outcome in zip(images, outcomes, strict=True):
            # A file that changed while it was read is not the version that was polled.
            if poller.current_version(image.version.path) != image.version:
                continue
            record = self._record(image, outcome, writer)
            if record is not None:
                poller.mark_recorded(image.version)
                yield image, record

    def _record(
        self, image: PendingImage, outcome: Prediction | ImageError, writer: ResultsWriter
    ) -> dict[str, Any] | None:
        """Write the line and pictures of an image; None for an unreadable one that is to be tried again."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        entries = {**image.version._asdict(), "predicted_at": now}
        if not isinstance(outcome, ImageError):
            return writer.write(outcome, name=versioned_picture_name(image.version), **entries)
        if time.monotonic() - image.first_seen < self.patience:
            return None
        record = {**entries, "error": str(outcome).removesuffix(", or pass --on-error skip")}
        writer.write_record(record)
        return record

    def _wait(self, stop: Callable[[], bool]) -> None:
        # A threading.Event would be shorter, but must not be set in a signal handler.
        end = time.monotonic() + self.every
        while not stop() and (remaining := end - time.monotonic()) > 0:
            time.sleep(min(remaining, STOP_CHECK_SECONDS))


def recorded_versions(file: Path) -> set[FileVersion]:
    """Return the versions of images that a watch's ``results.jsonl`` contains; truncate an incomplete last line.

    Raises
    ------
    ResultsError
        If another line is damaged, or another command wrote the file.
    """
    versions = set()
    for number, record in enumerate(recover_records(file), start=1):
        try:
            versions.add(FileVersion(str(record["path"]), int(record["size"]), int(record["mtime_ns"])))
        except (KeyError, TypeError, ValueError):
            raise ResultsError(
                f"{file}, line {number}: not written by a watch; move the file, or choose another output folder"
            ) from None
    return versions


def versioned_picture_name(version: FileVersion) -> str:
    """Return the name of an image's pictures: always the same for a version, and different for every version."""
    digest = hashlib.sha256("\0".join(map(str, version)).encode(errors="backslashreplace")).hexdigest()
    return f"{PurePosixPath(version.path).with_suffix('')}-{digest[:12]}"
