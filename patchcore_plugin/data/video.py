"""Read the frames of a video one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from patchcore_plugin.errors import ImageError

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
"""Suffixes of video files, in lower case."""


class Frame(NamedTuple):
    """One frame of a video.

    Attributes
    ----------
    number : int
        Counted from 0.
    seconds : float
        Time in the video.
    pixels : ndarray of uint8, shape [H, W, 3]
        RGB, upright.
    """

    number: int
    seconds: float
    pixels: npt.NDArray[Any]


def is_video(path: Path) -> bool:
    """Return whether a path has the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def read_frames(path: Path, step: int = 1) -> Iterator[Frame]:
    """Yield the frames of a video; one is in memory at a time.

    Parameters
    ----------
    path : Path
        The video file.
    step : int
        Yield every `step`-th frame, from the first on.

    Yields
    ------
    Frame

    Raises
    ------
    ImageError
        If the file cannot be read as a video, or has no frames. After the first frame, damage ends the video instead.
    """
    if not path.is_file():
        raise ImageError(f"{path}: no such file; check the path, or pass --on-error skip")
    try:
        name = str(path.resolve())
        name.encode()
    except UnicodeEncodeError:
        # OpenCV would terminate the process.
        raise ImageError(f"{str(path)!a}: a video's path must be valid Unicode; rename it") from None
    # Other backends of OpenCV interpret % in a name as a pattern of file names.
    video = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
    try:
        for number in count():
            if not video.grab():
                if number == 0:
                    raise ImageError(
                        f"{path}: not a readable video (no frame of it can be decoded); "
                        "convert it to MP4 or AVI, or pass --on-error skip"
                    )
                return
            if number % step:
                continue
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
            is_decoded, pixels = video.retrieve()
            if not is_decoded:
                return
            yield Frame(number, seconds, np.ascontiguousarray(pixels[..., ::-1]))
    finally:
        video.release()
