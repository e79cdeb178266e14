"""Files that are no images, or only the beginning of one: refused, in one line that says why."""

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
from tests.data.image_files import image_of, saved

SKIP = "replace or remove it, or pass --on-error skip"


def refusal_of(folder: Path, data: bytes, name: str = "image.png") -> str:
    path = folder / name
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    with pytest.raises(ImageError):
        read_mask(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a readable image (")
    assert "\n" not in message
    return message.removeprefix(f"{path}: not a readable image ")


NOISE = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)


WHOLE = {
    "PNG": saved(Image.fromarray(NOISE), "PNG"),
    "JPEG": saved(Image.fromarray(NOISE), "JPEG"),
    "progressive JPEG": saved(Image.fromarray(NOISE), "JPEG", progressive=True),
    "JPEG, restarts": saved(Image.fromarray(NOISE), "JPEG", restart_marker_blocks=1),
    "BMP": saved(Image.fromarray(NOISE), "BMP"),
    "TIFF": saved(Image.fromarray(NOISE), "TIFF"),
    "TIFF, LZW": saved(Image.fromarray(NOISE), "TIFF", compression="tiff_lzw"),
    "TIFF, deflate": saved(Image.fromarray(NOISE), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, 16 bits": saved(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 256), "TIFF"),
    "WebP": saved(Image.fromarray(NOISE), "WEBP"),
    "lossless WebP": saved(Image.fromarray(NOISE), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_cut_file_is_refused_at_every_length(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole = WHOLE[kind]
    assert image_of(tmp_path, whole).shape == (48, 48, 3)
    lengths = {1, 2, 3, 4, 8, 12, 20, 33, 34, 60, 200, *range(1, len(whole), len(whole) // 37)}
    lengths |= {len(whole) - missing for missing in (1, 2, 3, 4, 11, 12, 13, 40)}
    for length in sorted(lengths):
        assert refusal_of(tmp_path, whole[:length]).endswith(f"); {SKIP}"), length
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if "TIFF" not in kind])
def test_a_file_cut_in_half_says_so(tmp_path: Path, kind: str) -> None:
    whole = WHOLE[kind]
    message = refusal_of(tmp_path, whole[: len(whole) // 2])
    assert "cut short" in message


def test_a_damaged_png_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = bytearray(WHOLE["PNG"])
    damaged[len(damaged) // 2] ^= 0x10
    message = refusal_of(tmp_path, bytes(damaged))
    assert message == f"(the file is damaged: a checksum does not match); {SKIP}"
    assert capfd.readouterr() == ("", "")


def test_a_run_length_bmp_that_is_cut_is_refused(tmp_path: Path) -> None:
    width, height = 4, 2
    stream = b"\x04\x01\0\0" + b"\x04\x02\0\0" + b"\0\x01"
    palette = b"".join(bytes([level] * 3) + b"\0" for level in (0, 100, 200, 255))
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(stream), 0, 0, 4, 0)
    whole = b"BM" + struct.pack("<IHHI", start + len(stream), 0, 0, start) + info + palette + stream
    assert image_of(tmp_path, whole)[..., 0].tolist() == [[200] * 4, [100] * 4]
    for missing in range(1, len(stream) + 1):
        refusal_of(tmp_path, whole[:-missing])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "(the file is empty)"),
        (b"just some text\n", "(it holds text)"),
        ("ä".encode() * 400, "(it holds text)"),
        (b"GIF89a" + bytes(60), "(it is no PNG, JPEG, BMP, TIFF or WebP file, whatever its name says)"),
        (bytes(4000), "(it is no PNG, JPEG, BMP, TIFF or WebP file, whatever its name says)"),
        (b"\xfe\xed" * 40, "(it is no PNG, JPEG, BMP, TIFF or WebP file, whatever its name says)"),
        (b"\xff\xd8\xff\xd9", "(the file is cut short)"),
        (b"\xff\xd8\xff\xe0\0\x04ab" + b"not a marker", "(the file is damaged: a marker is missing)"),
        (b"\x89PNG\r\n\x1a\n", "(the file is cut short)"),
    ],
)
def test_what_is_no_image_says_what_it_is(tmp_path: Path, data: bytes, reason: str) -> None:
    assert refusal_of(tmp_path, data) == f"{reason}; {SKIP}"


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_missing_files_and_folders_are_told(tmp_path: Path, read: Any) -> None:
    with pytest.raises(ImageError) as caught:
        read(tmp_path / "a.png")
    expected = f"{tmp_path / 'a.png'}: no such file; check the path, or pass --on-error skip"
    assert str(caught.value) == expected
    with pytest.raises(ImageError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: a folder, not an image; name a file in it"


@pytest.mark.skipif(sys.platform == "win32", reason="such names are not allowed there")
def test_a_message_is_one_line_whatever_the_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\\nb\.png: no such file; check the path"):
        read_image(tmp_path / "a\nb.png")


def test_the_log_level_of_opencv_is_restored_after_many_threads(tmp_path: Path) -> None:
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
