"""Frames of videos: numbers, times, pixels, orientation, and files that are not videos."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from patchcore_plugin.data.video import read_frames
from patchcore_plugin.errors import ImageError
from tests.data.videos import GOOD, SPOT, draw_part, write_image, write_video


@pytest.mark.parametrize(
    ("name", "code"), [("v.avi", "MJPG"), ("v.MKV", "MJPG"), ("v.mp4", "mp4v"), ("v%02d.mov", "mp4v")]
)
def test_numbers_times_and_pixels(name: str, code: str, tmp_path: Path) -> None:
    video = write_video(tmp_path / name, [draw_part(defect=number == 3) for number in range(7)], code=code)
    frames = list(read_frames(video))
    assert [frame.number for frame in frames] == list(range(7))
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in range(7)])
    for frame in frames:
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.shape == (48, 64, 3)
        assert frame.pixels.flags.c_contiguous
        colour = SPOT if frame.number == 3 else GOOD
        assert np.abs(frame.pixels[31, 39].astype(int) - colour).max() < 40  # RGB, not BGR
    third = list(read_frames(video, 3))
    assert [(frame.number, round(frame.seconds, 3)) for frame in third] == [(0, 0.0), (3, 0.3), (6, 0.6)]
    assert np.array_equal(third[1].pixels, frames[3].pixels)


def test_video_is_rotated_upright(tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[:24] = 255
    video = write_video(tmp_path / "v.mp4", [image] * 2, code="mp4v")
    data = bytearray(video.read_bytes())
    matrix = data.index(b"tkhd") + 44
    assert struct.unpack_from(">9i", data, matrix) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, matrix, 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)  # 90 degrees clockwise
    video.write_bytes(data)
    frame = next(read_frames(video))
    assert frame.pixels.shape == (64, 48, 3)
    assert frame.pixels[:, 40:].min() > 200
    assert frame.pixels[:, :8].max() < 50


def read_error(path: Path) -> str:
    with pytest.raises(ImageError) as error:
        next(read_frames(path))
    return str(error.value)


def test_file_that_is_not_a_video(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.avi", write_video(tmp_path / "empty.avi", [])
    text.write_bytes(b"no video")
    # OpenCV could read this name as a pattern for numbered images.
    pattern = tmp_path / "v%d.mp4"
    pattern.write_bytes(b"no video")
    write_image(tmp_path / "0.png", draw_part()).rename(tmp_path / "v0.mp4")
    for path in (text, empty, pattern):
        assert read_error(path).startswith(f"{path}: not a readable video (")


def test_file_that_does_not_exist(tmp_path: Path) -> None:
    for path in (tmp_path / "none.mp4", tmp_path, Path("rtsp://127.0.0.1/v.mp4")):
        assert read_error(path).startswith(f"{path}: no such file; ")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_name_that_is_not_unicode(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/v\xff.avi"))
    write_video(tmp_path / "v.avi", [draw_part()]).rename(path)
    assert "v\\udcff.avi" in read_error(path)
