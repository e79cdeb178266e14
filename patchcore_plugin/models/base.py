"""The interface of fitted and of exported models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from patchcore_plugin.data.types import ImageLike, OnError
from patchcore_plugin.errors import ImageError

from .calibration import Calibration
from .prediction import Prediction


class BaseModel(ABC):
    """A model that predicts."""

    calibration: Calibration
    """Threshold and colour scale."""

    @property
    def threshold(self) -> float | None:
        """Images with higher scores are anomalous; None without a threshold."""
        return self.calibration.threshold

    @property
    def map_scale(self) -> tuple[float, float]:
        """Map values of the first and the last colour, the same for all images."""
        return self.calibration.map_scale

    def predict(self, images: Iterable[ImageLike], *, on_error: OnError = "stop") -> list[Prediction]:
        """Return the predictions for images.

        Parameters
        ----------
        images
            Paths, or RGB arrays [H, W, 3] of uint8, uint16 or floats in 0..1.
        on_error
            "stop" to raise the error of an unreadable image, "skip" to leave the image out.

        Raises
        ------
        ImageError
            For an unreadable image, if errors are not skipped.
        """
        predictions = self.predict_each(images, on_error=on_error)
        return [prediction for prediction in predictions if isinstance(prediction, Prediction)]

    @abstractmethod
    def predict_each(
        self, images: Iterable[ImageLike], /, *, on_error: OnError = "stop", keep_pixels: bool = False
    ) -> Iterator[Prediction | ImageError]:
        """Yield the predictions for images, in order, with one batch in memory at a time.

        Parameters
        ----------
        images
            Paths or arrays; see `predict`.
        on_error
            "stop" to raise the error of an unreadable image, "skip" to yield it in the image's place.
        keep_pixels
            Whether each prediction has the decoded image in `Prediction.pixels`.
        """
