"""Predictions for files: images and videos, in order, with the pixels that their pictures are drawn on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy.typing as npt

from patchcore_plugin.data.types import ImageLike, OnError
from patchcore_plugin.data.video import is_video, read_frames
from patchcore_plugin.errors import ImageError

if TYPE_CHECKING:
    from patchcore_plugin.models.prediction import Prediction


class Predictor(Protocol):
    """A fitted model that predicts, such as `Detector` or `ExportedModel`."""

    @property
    def map_scale(self) -> tuple[float, float]:
        """Map values drawn in the first and the last colour, the same for all images."""
        ...

    @property
    def thumbnails(self) -> Mapping[int, bytes]:
        """JPEG files of training images by image number; empty if the model has none."""
        ...

    def predict_each(
        self, images: Iterable[ImageLike], /, *, on_error: OnError = "stop", keep_pixels: bool = False
    ) -> Iterator[Prediction | ImageError]:
        """Yield the prediction of each image, in order.

        Parameters
        ----------
        images
            Paths, or arrays [H, W, 3].
        on_error
            "stop" raises the error of an unreadable image; "skip" yields it in place of the prediction.
        keep_pixels
            Whether predictions have ``pixels``.
        """
        ...


class FileResult(NamedTuple):
    """The result for an image or for a frame of a video.

    Parameters
    ----------
    outcome
        The prediction, with ``pixels``, or the error of an unreadable file. The ``path`` of a frame is ``VIDEO#FRAME``.
    extra
        Additional entries of the record: ``frame``, counted from 0, and ``seconds`` for a frame; none for an image.
    """

    outcome: Prediction | ImageError
    extra: dict[str, Any]


def predict_files(
    model: Predictor, paths: Iterable[Path], *, frame_step: int = 1, on_error: OnError = "stop"
) -> Iterator[FileResult]:
    """Yield the results for images and for the frames of videos, in order.

    Only a few batches are in memory at a time, however long a video is.

    Parameters
    ----------
    model
        A fitted model.
    paths
        Images and videos. Files with a suffix in `patchcore_plugin.data.video.VIDEO_SUFFIXES` are videos.
    frame_step
        Process every Nth frame of a video, beginning with the first.
    on_error
        "stop" raises the error of an unreadable file; "skip" yields it.

    Yields
    ------
    FileResult
        One for each image, each processed frame, and each unreadable video.

    Raises
    ------
    ImageError
        For an unreadable file, if `on_error` is "stop".
    """
    for are_videos, group in groupby(paths, key=is_video):
        if not are_videos:
            for outcome in model.predict_each(group, on_error=on_error, keep_pixels=True):
                yield FileResult(outcome, {})
            continue
        for path in group:
            try:
                yield from _predict_frames(model, path, frame_step, on_error)
            except ImageError as error:
                if on_error == "stop":
                    raise
                error.path = str(path)
                yield FileResult(error, {})


def _predict_frames(model: Predictor, path: Path, step: int, on_error: OnError) -> Iterator[FileResult]:
    # The model reads frames ahead of its predictions.
    positions: deque[tuple[int, float]] = deque()

    def frames() -> Iterator[npt.NDArray[Any]]:
        for number, seconds, pixels in read_frames(path, step):
            positions.append((number, seconds))
            yield pixels

    for outcome in model.predict_each(frames(), on_error=on_error, keep_pixels=True):
        number, seconds = positions.popleft()
        name = f"{path}#{number}"
        if isinstance(outcome, ImageError):
            outcome.path = name
        else:
            outcome = replace(outcome, path=name)
        yield FileResult(outcome, {"frame": number, "seconds": round(seconds, 6)})
