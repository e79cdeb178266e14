"""Images and videos judged one after the other, each with the pixels that its pictures are drawn over."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from patchcore_plugin.data.images import read_image
from patchcore_plugin.data.types import OnError
from patchcore_plugin.data.video import is_video, read_frames
from patchcore_plugin.errors import ImageError

from .writer import PredictionLike, named_after


class Judge(Protocol):
    """The part of a model that judges images."""

    def predict_each(
        self, images: Iterable[Any], /, *, on_error: OnError = "stop"
    ) -> Iterator[PredictionLike | ImageError]:
        """Yield what is found in each path or array, in order; the error of one that cannot be read, if skipping."""
        ...


class Judged(NamedTuple):
    """What was found in an image, or in a frame of a video.

    Parameters
    ----------
    found
        The prediction, or what is wrong with the file.
    pixels
        RGB [H, W, 3]; None where there is no map to be drawn over it.
    name
        What a frame's pictures are called; None for an image.
    extra
        What a frame's record has in other words than an image's, or beyond them: ``path``, which is ``VIDEO#FRAME``,
        ``frame``, counted from 0, and ``seconds``.
    """

    found: PredictionLike | ImageError
    pixels: npt.NDArray[Any] | None
    name: str | None
    extra: dict[str, Any]


class _Item(NamedTuple):
    image: Path | npt.NDArray[Any]
    name: str | None
    extra: dict[str, Any]


def judge_files(
    model: Judge, paths: Iterable[Path], *, frame_step: int = 1, on_error: OnError = "stop"
) -> Iterator[Judged]:
    """Yield what a model finds in images and in the frames of videos, in order.

    A few batches of frames are in memory at a time, whatever the video's length.

    Parameters
    ----------
    model
        A fitted one.
    paths
        Files; which are videos is told by their suffixes, `patchcore_plugin.data.video.VIDEO_SUFFIXES`.
    frame_step
        The first frame of a video is judged, and every so many-th after it.
    on_error
        Whether a file that cannot be read stops it, or is yielded with its error.

    Raises
    ------
    ImageError
        For a file that cannot be read, if `on_error` is "stop".
    """
    for video, run in groupby(paths, key=is_video):
        if not video:
            yield from _judge(model, (_Item(path, None, {}) for path in run), on_error)
            continue
        for path in run:
            try:
                yield from _judge(model, _frames(path, frame_step), on_error)
            except ImageError as error:
                if on_error == "stop":
                    raise
                error.path = str(path)
                yield Judged(error, None, None, {})


def _frames(path: Path, step: int) -> Iterator[_Item]:
    for number, seconds, pixels in read_frames(path, step):
        extra = {"path": f"{path}#{number}", "frame": number, "seconds": round(seconds, 6)}
        yield _Item(pixels, f"{named_after(str(path))}_{number}", extra)


def _judge(model: Judge, items: Iterable[_Item], on_error: OnError) -> Iterator[Judged]:
    # The model reads ahead. `tee` would keep each frame until it has judged 57.
    waiting: deque[_Item] = deque()

    def images() -> Iterator[Path | npt.NDArray[Any]]:
        for item in items:
            waiting.append(item)
            yield item.image

    for found in model.predict_each(images(), on_error=on_error):
        image, name, extra = waiting.popleft()
        pixels = None
        if not isinstance(found, ImageError) and found.anomaly_map is not None:
            try:
                pixels = read_image(image) if isinstance(image, Path) else image
            except ImageError as error:  # gone since it was judged
                if on_error == "stop":
                    raise
                error.path = str(image)
                found = error
        yield Judged(found, pixels, name, extra)
