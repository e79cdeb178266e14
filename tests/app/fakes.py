"""A model that is none, and images that are drawn as files: what the tests of the page are about is around them."""

from __future__ import annotations

import json
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from patchcore_plugin.data.images import read_image
from patchcore_plugin.errors import ImageError
from patchcore_plugin.models.calibration import Calibration, GoodImage
from patchcore_plugin.models.prediction import Nearest, Prediction

CALIBRATION = Calibration.of_good([GoodImage(float(n), 0.0, float(n)) for n in range(1, 20)], "19 images")


class FakeModel:
    """Scores an image by its brightest pixel; the map is the image's first channel."""

    thumbnails: dict[int, bytes] = {}  # noqa: RUF012

    def __init__(self, calibration: Calibration = CALIBRATION) -> None:
        self.calibration = calibration
        self.busy = threading.Lock()

    def predict_each(self, images: Iterable[Path], /, *, on_error: str) -> Iterator[Prediction | ImageError]:
        assert on_error == "skip"
        assert self.busy.acquire(blocking=False), "two calls at once"
        try:
            for path in images:
                try:
                    pixels = read_image(path)
                except ImageError as error:
                    yield error
                else:
                    yield prediction(pixels[..., 0].astype(np.float32), self.calibration)
        finally:
            self.busy.release()

    def save(self, path: Path) -> None:
        path.write_text(json.dumps([self.calibration.threshold, path.stat().st_size if path.exists() else 0]))


def prediction(values: Any, calibration: Calibration = CALIBRATION, image: str | None = "a.png") -> Prediction:
    nearest = Nearest(
        image=image, x=1, y=2, peak_x=3, peak_y=4, distance=1.0, number=0, size=(8, 8), box=(0, 0, 2, 2),
        peak_box=(2, 2, 2, 2),
    )  # fmt: skip
    found = np.asarray(values, dtype=np.float32)
    return Prediction.against(calibration, "x", (found.shape[0], found.shape[1]), float(found.max()), found, nearest)


def image(value: int, size: tuple[int, int] = (8, 10), suffix: str = ".png") -> bytes:
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[2:4, 2:5] = value
    return cv2.imencode(suffix, pixels)[1].tobytes()


def png_header(width: int, height: int) -> bytes:
    """Return a whole PNG file that says it is so large, and holds no pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
