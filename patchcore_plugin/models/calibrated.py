"""What all fitted models have in common: they judge images, and a calibration says what the scores mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

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
        self, images: Iterable[ImageLike], /, *, on_error: OnError = "stop"
    ) -> Iterator[Prediction | ImageError]:
        """Judge images one after the other, in order, a batch in memory at a time.

        Where `on_error` is "skip", the error of an unreadable image is yielded in its place.
        """
