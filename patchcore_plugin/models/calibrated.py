"""What all fitted models have in common: they judge images, and a calibration says what the scores mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from patchcore_plugin.data.images import as_image, read_image
from patchcore_plugin.data.types import ImageLike, OnError
from patchcore_plugin.errors import ImageError

from .calibration import Calibration
from .prediction import Prediction


class Calibrated(ABC):
    """A model that judges images."""

    calibration: Calibration
    """What scores and maps are compared with."""

    @property
    def threshold(self) -> float | None:
        """The image score above which an image is called anomalous; None if there is none."""
        return self.calibration.threshold

    @property
    def map_scale(self) -> tuple[float, float]:
        """Map values of the lowest and highest colour, the same for all images."""
        return self.calibration.map_scale

    def predict(self, images: Iterable[ImageLike], *, on_error: OnError = "stop") -> list[Prediction]:
        """Judge images; unreadable ones stop it, or are left out."""
        found = self.predict_each(images, on_error=on_error)
        return [prediction for prediction in found if isinstance(prediction, Prediction)]

    @abstractmethod
    def predict_each(
        self, images: Iterable[ImageLike], /, *, on_error: OnError = "stop", keep_pixels: bool = False
    ) -> Iterator[Prediction | ImageError]:
        """Judge images one after the other, in order, a batch in memory at a time.

        Where `on_error` is "skip", the error of an unreadable image is yielded in its place. With `keep_pixels`, each
        prediction has the image's pixels.
        """


def with_pixels(
    images: Iterable[ImageLike],
    predict: Callable[[Iterable[ImageLike]], Iterator[Prediction | ImageError]],
    on_error: OnError,
) -> Iterator[Prediction | ImageError]:
    """Yield the predictions of images, each with its pixels."""
    waiting: deque[ImageLike] = deque()

    def note() -> Iterator[ImageLike]:
        for image in images:
            waiting.append(image)
            yield image

    for result in predict(note()):
        image = waiting.popleft()
        if isinstance(result, ImageError):
            yield result
            continue
        try:
            pixels = read_image(image) if isinstance(image, str | Path) else as_image(image)
        except ImageError as error:
            if on_error == "stop":
                raise
            error.path = str(image)
            yield error
        else:
            yield replace(result, pixels=pixels)
