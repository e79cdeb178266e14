"""A fake model and small image files, for tests of the code around a model."""

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
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.held_out_score import HeldOutScore
from patchcore_plugin.models.prediction import Nearest, Prediction

CALIBRATION = Calibration.from_held_out([HeldOutScore(float(n), 0.0, float(n)) for n in range(1, 20)], "19 images")


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
    """Return the prediction for an anomaly map; `image` is the path of the nearest training image."""
    nearest = Nearest(
        image=image, x=1, y=2, peak_x=3, peak_y=4, distance=1.0, number=0, size=(8, 8), box=(0, 0, 2, 2),
        peak_box=(2, 2, 2, 2),
    )  # fmt: skip
    anomaly_map = np.asarray(values, dtype=np.float32)
    height, width = anomaly_map.shape
    return Prediction.compare(calibration, "x", (height, width), float(anomaly_map.max()), anomaly_map, nearest=nearest)


def image(value: int, size: tuple[int, int] = (8, 10), suffix: str = ".png") -> bytes:
    """Return an image file with a rectangle of brightness `value` on black."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[2:4, 2:5] = value
    return cv2.imencode(suffix, pixels)[1].tobytes()


def png_file(width: int, height: int, *, bits: int = 1, rows: bytes | None = None) -> bytes:
    """Return a PNG file with a header for this size, and compressed rows that need not match it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = zlib.compress(b"") if rows is None else rows
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
