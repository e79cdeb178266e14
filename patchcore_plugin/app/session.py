"""Sessions: the images that one open page has scored, and its threshold."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from patchcore_plugin.errors import ImageError

from .limits import Limits, display_name

if TYPE_CHECKING:
    from patchcore_plugin.models.calibration import Calibration
    from patchcore_plugin.models.prediction import Prediction

    from .model_store import LoadedModel


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image file.

    Parameters
    ----------
    name
        Name to show.
    file
        Path to read.
    is_upload
        Whether the file belongs to the session and is deleted with the image.
    """

    name: str
    file: Path
    is_upload: bool

    def check(self, limits: Limits) -> None:
        """Raise `ImageError` if the file cannot be opened or `Limits.check_image` rejects it."""
        try:
            limits.check_size(self.name, self.file.stat().st_size)
            data = self.file.read_bytes()
        except OSError as error:
            raise ImageError(f"{self.name}: cannot be opened ({error.strerror})") from None
        limits.check_image(self.name, data)


@dataclass(frozen=True, kw_only=True)
class ScoredImage:
    """An image with its prediction.

    Parameters
    ----------
    number
        Number in the session, from 1.
    source
        The image file.
    prediction
        Prediction with the threshold of the model file.
    stored_bytes
        Memory of the anomaly map plus size of the uploaded file.
    """

    number: int
    source: Source
    prediction: Prediction
    stored_bytes: int

    def apply(self, calibration: Calibration) -> Prediction:
        """Return the prediction with the thresholds of another calibration: verdict, p-value and regions."""
        # Imported here because it loads torch, which the page does not need before the first model.
        from patchcore_plugin.models.prediction import Prediction

        old = self.prediction
        return Prediction.compare(
            calibration, self.source.name, old.size, old.score, old.anomaly_map, nearest=old.nearest
        )


class Session:
    """The images, model and threshold of one open page.

    Parameters
    ----------
    token
        Secret that identifies the session in URLs.
    folder
        Folder for uploads, created when needed.
    limits
        Number of images to keep.
    """

    def __init__(self, token: str, folder: Path, limits: Limits) -> None:
        self.token = token
        self.folder = folder
        self.limits = limits
        self.loaded: LoadedModel | None = None
        self.calibration: Calibration | None = None
        self.images: dict[int, ScoredImage] = {}
        self.dropped_count = 0
        self._image_count = 0
        self._upload_count = 0
        self._pending: dict[Path, int] = {}

    @property
    def stored_bytes(self) -> int:
        """Bytes that the scored images occupy."""
        return sum(image.stored_bytes for image in self.images.values())

    @property
    def pending_bytes(self) -> int:
        """Bytes of uploads that are not scored yet."""
        return sum(self._pending.values())

    @property
    def is_changed(self) -> bool:
        """Whether the threshold differs from the one in the model file."""
        return self.loaded is not None and self.calibration != self.loaded.calibration

    def use(self, loaded: LoadedModel) -> list[Source]:
        """Switch to another model and its threshold; return the images, which have to be scored again."""
        self.loaded, self.calibration = loaded, loaded.calibration
        sources = [image.source for image in self.images.values()]
        self.images.clear()
        return sources

    def upload(self, name: str, data: bytes) -> Source:
        """Store an uploaded image until it is scored.

        Parameters
        ----------
        name
            File name given by the client; never used as a path.
        data
            Content of the file.

        Raises
        ------
        ImageError
            If `Limits.check_image` rejects the file; nothing is stored then.
        """
        name = display_name(name)
        self.limits.check_image(name, data)
        self.folder.mkdir(exist_ok=True)
        self._upload_count += 1
        file = self.folder / str(self._upload_count)
        file.write_bytes(data)
        self._pending[file] = len(data)
        return Source(name=name, file=file, is_upload=True)

    def add(self, source: Source, prediction: Prediction) -> ScoredImage:
        """Add a scored image, replacing an earlier prediction for the same file; drop the oldest above the limit."""
        for number in [image.number for image in self.images.values() if image.source.file == source.file]:
            del self.images[number]
        self._pending.pop(source.file, None)
        self._image_count += 1
        size = 0 if prediction.anomaly_map is None else prediction.anomaly_map.nbytes
        if source.is_upload:
            size += source.file.stat().st_size
        image = ScoredImage(number=self._image_count, source=source, prediction=prediction, stored_bytes=size)
        self.images[image.number] = image
        while len(self.images) > self.limits.images:
            self.drop_oldest()
        return image

    def drop_oldest(self) -> None:
        """Drop the oldest image and count it in `dropped_count`."""
        self.delete_upload(self.images.pop(next(iter(self.images))).source)
        self.dropped_count += 1

    def set_threshold(self, threshold: float) -> None:
        """Use another image threshold; raise `CalibrationError` if it is not finite."""
        if self.calibration is not None:
            self.calibration = self.calibration.at_threshold(threshold)

    def set_rate(self, rate: float) -> None:
        """Use the threshold for a false-alarm rate; raise `CalibrationError` if it cannot be guaranteed."""
        if self.calibration is not None:
            self.calibration = self.calibration.at_rate(rate)

    def reset_threshold(self) -> None:
        """Use the threshold in the model file again."""
        if self.loaded is not None:
            self.calibration = self.loaded.calibration

    def is_anomalous(self, image: ScoredImage) -> bool | None:
        """Return whether an image scores above the threshold; None without a threshold."""
        threshold = None if self.calibration is None else self.calibration.threshold
        return None if threshold is None else image.prediction.score > threshold

    def results(self) -> list[tuple[ScoredImage, Prediction]]:
        """Return all images and their predictions at the current threshold."""
        calibration, images = self.calibration, list(self.images.values())
        return [] if calibration is None else [(image, image.apply(calibration)) for image in images]

    def close(self) -> None:
        """Delete all images and uploads."""
        self.images.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def delete_upload(self, source: Source) -> None:
        """Delete the file of an image if it was uploaded."""
        if source.is_upload:
            self._pending.pop(source.file, None)
            source.file.unlink(missing_ok=True)


class SessionStore:
    """All open sessions; a context manager that deletes their uploads at the end.

    Parameters
    ----------
    limits
        Limits for all sessions.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sessions: dict[str, Session] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="patchcore-app-")

    def __enter__(self) -> SessionStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Session:
        """Return a new session."""
        token = secrets.token_urlsafe(16)
        session = Session(token, Path(self._folder.name) / token, self.limits)
        self._sessions[token] = session
        return session

    def get(self, token: str) -> Session | None:
        """Return the open session with a token."""
        return self._sessions.get(token)

    def end(self, session: Session) -> None:
        """Close a session."""
        self._sessions.pop(session.token, None)
        session.close()

    def close(self) -> None:
        """Delete all uploads."""
        self._folder.cleanup()

    def accepts(self, size: int) -> bool:
        """Return whether `size` more bytes of uploads may wait for scoring."""
        return sum(session.pending_bytes for session in self._sessions.values()) + size <= self.limits.memory

    def enforce_memory_limit(self) -> None:
        """Drop the oldest images of the session that stores most, until all sessions meet `Limits.memory`."""
        sizes = {token: session.stored_bytes for token, session in self._sessions.items()}
        while sum(sizes.values()) > self.limits.memory:
            largest = max(sizes, key=lambda token: sizes[token])
            self._sessions[largest].drop_oldest()
            sizes[largest] = self._sessions[largest].stored_bytes


def score_images(
    loaded: LoadedModel, limits: Limits, sources: Sequence[Source]
) -> list[tuple[Source, Prediction | ImageError]]:
    """Check and score images.

    Parameters
    ----------
    loaded
        Model to score with.
    limits
        Limits that each image must meet.
    sources
        Image files.

    Returns
    -------
    list of tuple
        Each source with its prediction, or with its error if it was rejected or could not be decoded.
    """
    rejected: dict[int, ImageError] = {}
    for index, source in enumerate(sources):
        try:
            source.check(limits)
        except ImageError as error:
            rejected[index] = error
    predictions = iter(loaded.predict([source.file for index, source in enumerate(sources) if index not in rejected]))
    results: list[tuple[Source, Prediction | ImageError]] = []
    for index, source in enumerate(sources):
        result = rejected[index] if index in rejected else next(predictions)
        if isinstance(result, ImageError) and index not in rejected:
            # The original message names the stored file, which the client does not know.
            result = ImageError(f"{source.name}: cannot be decoded; the file is damaged or its format is unsupported")
        results.append((source, result))
    return results
