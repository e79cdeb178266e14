"""Files that are not images, cut short or damaged: refused with the reason in one line."""

from __future__ import annotations

import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from patchcore_plugin.data.images import read_image, read_mask
from patchcore_plugin.errors import ImageError
from tests.data.image_files import encode, write_and_read


def refusal(folder: Path, data: bytes, name: str = "image.png") -> str:
    path = folder / name
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    with pytest.raises(ImageError):
        read_mask(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith("; replace or remove it, or pass --on-error skip")
    assert "\n" not in message
    return message


NOISE = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)


WHOLE = {
    "PNG": encode(Image.fromarray(NOISE), "PNG"),
    "JPEG": encode(Image.fromarray(NOISE), "JPEG"),
    "progressive JPEG": encode(Image.fromarray(NOISE), "JPEG", progressive=True),
    "JPEG, restarts": encode(Image.fromarray(NOISE), "JPEG", restart_marker_blocks=1),
    "BMP": encode(Image.fromarray(NOISE), "BMP"),
    "TIFF": encode(Image.fromarray(NOISE), "TIFF"),
    "TIFF, LZW": encode(Image.fromarray(NOISE), "TIFF", compression="tiff_lzw"),
    "TIFF, deflate": encode(Image.fromarray(NOISE), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, 16 bits": encode(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 256), "TIFF"),
    "WebP": encode(Image.fromarray(NOISE), "WEBP"),
    "lossless WebP": encode(Image.fromarray(NOISE), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_file_cut_at_any_length_is_refused(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole = WHOLE[kind]
    assert write_and_read(tmp_path, whole).shape == (48, 48, 3)
    lengths = {1, 2, 3, 4, 8, 12, 20, 33, 34, 60, 200, *range(1, len(whole), len(whole) // 37)}
    lengths |= {len(whole) - missing for missing in (1, 2, 3, 4, 11, 12, 13, 40)}
    for length in sorted(lengths):
        refusal(tmp_path, whole[:length])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if "TIFF" not in kind])
def test_reason_for_half_a_file_is_that_it_is_cut_short(tmp_path: Path, kind: str) -> None:
    whole = WHOLE[kind]
    assert "cut short" in refusal(tmp_path, whole[: len(whole) // 2])


def test_damaged_png_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = bytearray(WHOLE["PNG"])
    damaged[len(damaged) // 2] ^= 0x10
    assert "checksum" in refusal(tmp_path, bytes(damaged))
    assert capfd.readouterr() == ("", "")


def test_run_length_bmp_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    width, height = 4, 2
    stream = b"\x04\x01\0\0" + b"\x04\x02\0\0" + b"\0\x01"
    palette = b"".join(bytes([level] * 3) + b"\0" for level in (0, 100, 200, 255))
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(stream), 0, 0, 4, 0)
    whole = b"BM" + struct.pack("<IHHI", start + len(stream), 0, 0, start) + info + palette + stream
    assert write_and_read(tmp_path, whole)[..., 0].tolist() == [[200] * 4, [100] * 4]
    for missing in range(1, len(stream) + 1):
        refusal(tmp_path, whole[:-missing])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"just some text\n", "it contains text"),
        ("ä".encode() * 400, "it contains text"),
        (b"GIF89a" + bytes(60), "not a PNG, JPEG, BMP, TIFF or WebP file"),
        (bytes(4000), "not a PNG, JPEG, BMP, TIFF or WebP file"),
        (b"\xfe\xed" * 40, "not a PNG, JPEG, BMP, TIFF or WebP file"),
        (b"\xff\xd8\xff\xd9", "the file is cut short"),
        (b"\xff\xd8\xff\xe0\0\x04ab" + b"not a marker", "a marker is missing"),
        (b"\x89PNG\r\n\x1a\n", "the file is cut short"),
    ],
)
def test_reason_for_other_files(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path, data)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_missing_file_and_folder_are_refused(tmp_path: Path, read: Any) -> None:
    with pytest.raises(ImageError, match=r"a\.png: no such file"):
        read(tmp_path / "a.png")
    with pytest.raises(ImageError, match="a folder, not an image"):
        read(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not allow such names")
def test_message_is_one_line_for_every_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\\nb\.png: no such file"):
        read_image(tmp_path / "a\nb.png")


def test_log_level_of_opencv_is_restored_by_threads(tmp_path: Path) -> None:
    log: Any = getattr(cv2.utils, "logging", cv2)
    before = log.getLogLevel()
    good, cut = tmp_path / "good", tmp_path / "cut"
    good.write_bytes(WHOLE["BMP"])
    cut.write_bytes(WHOLE["BMP"][:3000])
    barrier = threading.Barrier(4)

    def work(_: int) -> None:
        barrier.wait()
        for _ in range(50):
            read_image(good)
            with pytest.raises(ImageError):
                read_image(cut)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert log.getLogLevel() == before
