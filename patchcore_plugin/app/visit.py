"""A visit: the images that one visitor has judged, and the threshold that they are held against."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from patchcore_plugin.errors import ImageError

from .limits import Limits

if TYPE_CHECKING:
    from patchcore_plugin.models.calibration import Calibration
    from patchcore_plugin.models.prediction import Prediction

    from .library import Loaded


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where an image is: `name` is for people, `file` for programs; an uploaded file is `owned`, and removed."""

    name: str
    file: Path
    owned: bool

    def check(self, limits: Limits) -> None:
        """Refuse it before it is decoded; the errors are those of `Limits.check_image`."""
        try:
            limits.check_file(self.name, self.file.stat().st_size)
            data = self.file.read_bytes()
        except OSError as error:
            raise ImageError(f"{self.name}: cannot be opened ({error.strerror})") from None
        limits.check_image(self.name, data)


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that was judged.

    Parameters
    ----------
    number
        Its number in the visit, from 1.
    source
        Where it is.
    found
        What was found in it, against the threshold of the model's file.
    cost
        Bytes that it keeps in memory or on the disk.
    """

    number: int
    source: Source
    found: Prediction
    cost: int

    def against(self, calibration: Calibration) -> Prediction:
        """Return what was found against another threshold; regions too."""
        # torch, which comes along, is loaded with the first model, and not before the page is shown.
        from patchcore_plugin.models.prediction import Prediction

        found = self.found
        return Prediction.against(
            calibration, self.source.name, found.size, found.score, found.anomaly_map, found.nearest
        )


class Visit:
    """What one visitor sees; not shared with others, and gone when the page is closed.

    Parameters
    ----------
    token
        Names it in addresses; nobody else can guess it.
    folder
        Where its uploads lie, under names of our own.
    limits
        How many images it keeps.
    """

    def __init__(self, token: str, folder: Path, limits: Limits) -> None:
        self.token = token
        self.folder = folder
        self.limits = limits
        self.loaded: Loaded | None = None
        self.calibration: Calibration | None = None
        self.images: dict[int, Image] = {}
        self.dropped = 0
        self._count = 0
        self._uploads = 0
        self._waiting: dict[Path, int] = {}

    @property
    def cost(self) -> int:
        """Bytes that its images keep."""
        return sum(image.cost for image in self.images.values())

    @property
    def waiting(self) -> int:
        """Bytes of its uploads that are not judged yet."""
        return sum(self._waiting.values())

    @property
    def is_changed(self) -> bool:
        """Whether the threshold is another one than that in the model's file."""
        return self.loaded is not None and self.calibration != self.loaded.calibration

    def use(self, loaded: Loaded) -> list[Source]:
        """Take another model and its threshold; return the images, which must be judged again."""
        self.loaded, self.calibration = loaded, loaded.calibration
        again = [image.source for image in self.images.values()]
        self.images.clear()
        return again

    def upload(self, name: str, data: bytes) -> Source:
        """Keep an uploaded image.

        Raises
        ------
        ImageError
            If it is refused; nothing is kept then.
        """
        name = display_name(name)
        self.limits.check_image(name, data)
        self.folder.mkdir(exist_ok=True)
        self._uploads += 1
        file = self.folder / str(self._uploads)
        file.write_bytes(data)
        self._waiting[file] = len(data)
        return Source(name=name, file=file, owned=True)

    def add(self, source: Source, found: Prediction) -> Image:
        """Keep what was found in an image, in place of what was found in it before; of too many, the oldest goes."""
        for number in [each.number for each in self.images.values() if each.source.file == source.file]:
            del self.images[number]
        self._waiting.pop(source.file, None)
        self._count += 1
        cost = 0 if found.anomaly_map is None else found.anomaly_map.nbytes
        if source.owned:
            cost += source.file.stat().st_size
        image = Image(number=self._count, source=source, found=found, cost=cost)
        self.images[image.number] = image
        while len(self.images) > self.limits.images:
            self.drop_oldest()
        return image

    def drop_oldest(self) -> None:
        """Let the oldest image go."""
        self.forget(self.images.pop(next(iter(self.images))).source)
        self.dropped += 1

    def choose_threshold(self, threshold: float) -> None:
        """Hold all images against another threshold; CalibrationError if it is not finite."""
        if self.calibration is not None:
            self.calibration = self.calibration.at_threshold(threshold)

    def choose_rate(self, rate: float) -> None:
        """Hold all images against the threshold for a false-alarm rate; CalibrationError if it cannot be promised."""
        if self.calibration is not None:
            self.calibration = self.calibration.at_rate(rate)

    def restore(self) -> None:
        """Go back to the threshold in the model's file."""
        if self.loaded is not None:
            self.calibration = self.loaded.calibration

    def verdict(self, image: Image) -> bool | None:
        """Return whether an image is anomalous at the threshold; None without one."""
        threshold = None if self.calibration is None else self.calibration.threshold
        return None if threshold is None else image.found.score > threshold

    def results(self) -> list[tuple[Image, Prediction]]:
        """Return all images, and what was found in them against the threshold."""
        calibration, images = self.calibration, list(self.images.values())
        return [] if calibration is None else [(image, image.against(calibration)) for image in images]

    def close(self) -> None:
        """Remove what was uploaded."""
        self.images.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget(self, source: Source) -> None:
        """Remove the file of an image that is not kept, if it was uploaded."""
        if source.owned:
            self._waiting.pop(source.file, None)
            source.file.unlink(missing_ok=True)


class Visits:
    """All open visits, by their tokens; a context manager, since their uploads lie in a folder that it removes.

    Parameters
    ----------
    limits
        How much they keep.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: dict[str, Visit] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="patchcore-app-")

    def __enter__(self) -> Visits:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._open)

    def start(self) -> Visit:
        """Return a new visit."""
        token = secrets.token_urlsafe(16)
        visit = Visit(token, Path(self._folder.name) / token, self.limits)
        self._open[token] = visit
        return visit

    def get(self, token: str) -> Visit | None:
        """Return the open visit with that token."""
        return self._open.get(token)

    def end(self, visit: Visit) -> None:
        """Forget a visit and all that it keeps."""
        self._open.pop(visit.token, None)
        visit.close()

    def close(self) -> None:
        """Remove all uploads."""
        self._folder.cleanup()

    def has_room(self, size: int) -> bool:
        """Return whether so many bytes more may wait to be judged."""
        return sum(visit.waiting for visit in self._open.values()) + size <= self.limits.memory

    def make_room(self) -> None:
        """Let the oldest images of whoever keeps most go, until all keep no more than the limit together."""
        costs = {token: visit.cost for token, visit in self._open.items()}
        while sum(costs.values()) > self.limits.memory:
            largest = max(costs, key=lambda token: costs[token])
            self._open[largest].drop_oldest()
            costs[largest] = self._open[largest].cost


def display_name(name: str) -> str:
    """Return an uploaded file's name for people: one line, not too long; it is never used as a path."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    printable = "".join(letter if letter.isprintable() else "?" for letter in last).strip()
    return printable[-80:] or "image"


def judge(loaded: Loaded, limits: Limits, sources: Sequence[Source]) -> list[tuple[Source, Prediction | ImageError]]:
    """Check and judge images; the error of one that cannot be taken is in its place."""
    refused: dict[int, ImageError] = {}
    for place, source in enumerate(sources):
        try:
            source.check(limits)
        except ImageError as error:
            refused[place] = error
    taken = [source for place, source in enumerate(sources) if place not in refused]
    found = iter(loaded.judge([source.file for source in taken]))
    result: list[tuple[Source, Prediction | ImageError]] = []
    for place, source in enumerate(sources):
        answer = refused[place] if place in refused else next(found)
        if isinstance(answer, ImageError) and place not in refused:
            # What the file holds was checked, and the file's own name means nothing to whoever uploaded it.
            answer = ImageError(f"{source.name}: cannot be read: damaged, or of a rare kind; save it again as PNG")
        result.append((source, answer))
    return result
