"""Images that are judged, and gone before they are drawn; and images and frames that are too large."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcore_plugin.data.images import read_image, write_png
from patchcore_plugin.errors import ImageError
from patchcore_plugin.inference.runner import judge_files
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.prediction import Prediction

CALIBRATION = Calibration(threshold=1.0, source="made up", map_scale=(0.0, 4.0))


class Forgetful:
    """A model whose images are gone when they are judged, if they are called so."""

    def predict_each(self, images: Iterable[Any], /, *, on_error: str = "stop") -> Iterator[Prediction]:
        for path in images:
            size = read_image(path).shape[:2]
            if path.stem == "gone":
                path.unlink()
            yield Prediction.against(CALIBRATION, str(path), size, 2.0, np.ones(size, np.float32), None)


def test_a_image_that_is_gone_when_it_is_drawn_stops_no_others(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("a", "gone", "b")]
    for path in paths:
        write_png(path, np.zeros((2, 3, 3), np.uint8))
    before, judged, after = judge_files(Forgetful(), paths, on_error="skip")
    assert isinstance(judged.found, ImageError)
    assert (judged.found.path, judged.pixels) == (str(paths[1]), None)
    assert str(judged.found) == f"{paths[1]}: no such file; check the path, or pass --on-error skip"
    for each in (before, after):
        assert isinstance(each.found, Prediction)
        assert each.pixels is not None
    write_png(paths[1], np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        list(judge_files(Forgetful(), paths, on_error="stop"))


@pytest.mark.parametrize(("width", "height"), [(40_000, 40_000), (2_000_000, 1)])
def test_a_image_larger_than_can_be_read_is_told_so(
    tmp_path: Path, width: int, height: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path = tmp_path / "large.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""))
    with pytest.raises(ImageError) as told:
        read_image(path)
    assert str(told.value) == (
        f"{path}: not a readable image ({width:,} x {height:,} pixels are more than can be read); "
        "make it smaller, or pass --on-error skip"
    )
    assert capfd.readouterr().err == ""
