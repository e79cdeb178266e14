"""What all fitted models have in common: they judge photos, and a calibration says what the scores mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from .calibration import Calibration
from .errors import ImageError
from .features import OnError, Photo
from .prediction import Prediction


class Calibrated(ABC):
    """A model that judges photos."""

    calibration: Calibration
    """What scores and maps are compared with."""

    @property
    def threshold(self) -> float | None:
        """The image score above which a photo is called anomalous; None if there is none."""
        return self.calibration.threshold

    @property
    def map_scale(self) -> tuple[float, float]:
        """Map values of the lowest and highest colour, the same for all photos."""
        return self.calibration.map_scale

    def predict(self, photos: Iterable[Photo], *, on_error: OnError = "stop") -> list[Prediction]:
        """Judge photos; unreadable ones stop it, or are left out."""
        found = self.predict_each(photos, on_error=on_error)
        return [prediction for prediction in found if isinstance(prediction, Prediction)]

    @abstractmethod
    def predict_each(
        self, photos: Iterable[Photo], /, *, on_error: OnError = "stop"
    ) -> Iterator[Prediction | ImageError]:
        """Judge photos one after the other, in order, a batch in memory at a time.

        Where `on_error` is "skip", the error of an unreadable photo is yielded in its place.
        """
