"""The frames of a video, one after the other."""

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
"""Suffixes of files that are taken for videos, in lower case."""


class Frame(NamedTuple):
    """One frame.

    Parameters
    ----------
    number
        Counted from 0.
    seconds
        Its time in the video.
    pixels
        RGB uint8 [H, W, 3], upright.
    """

    number: int
    seconds: float
    pixels: npt.NDArray[Any]


def is_video(path: Path) -> bool:
    """Return whether a path's suffix is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def read_frames(path: Path, step: int = 1) -> Iterator[Frame]:
    """Yield a video's frames, of which one is in memory at a time.

    Parameters
    ----------
    path
        The file.
    step
        Yield the first frame and every so many-th after it.

    Raises
    ------
    ImageError
        If it is no video that can be read, or has no frame; before the first frame only.
    """
    if not path.is_file():
        raise ImageError(f"{path}: no such file; check the path, or pass --on-error skip")
    try:
        name = str(path.resolve())
        name.encode()
    except UnicodeEncodeError:
        # OpenCV would end the whole process.
        raise ImageError(f"{str(path)!a}: a video's path must be valid Unicode; rename it") from None
    # Other libraries that OpenCV might ask take a name with % for a pattern of names.
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
            decoded, pixels = video.retrieve()
            if not decoded:
                return
            yield Frame(number, seconds, np.ascontiguousarray(pixels[..., ::-1]))
    finally:
        video.release()
