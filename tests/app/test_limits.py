"""Readable folders, rejected images and names of models."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchcore_plugin.app.limits import Folders, Limits, display_name, model_path
from patchcore_plugin.errors import DatasetError, ImageError, ModelFileError
from tests.app.fakes import image, png_file


def test_folder_below_a_root_is_resolved_by_relative_and_absolute_path(folders: Folders, tmp_path: Path) -> None:
    for text in ("good", " good/ ", str(tmp_path / "images" / "good"), "good/../good", "../images/good"):
        assert folders.resolve(text) == tmp_path / "images" / "good"
    assert folders.images("good") == [tmp_path / "images" / "good" / "a.png"]


@pytest.mark.parametrize("text", ["..", "../images2", "{}/images2", "/etc", "link", "good/../../secret", "../nowhere"])
def test_folder_outside_is_refused_with_one_message_whether_it_exists_or_not(
    folders: Folders, tmp_path: Path, text: str
) -> None:
    text = text.format(tmp_path)
    messages = set()
    for name in (text, "../missing"):
        with pytest.raises(DatasetError, match="outside the folders") as caught:
            folders.resolve(name)
        messages.add(str(caught.value).replace(name, "", 1))
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no folder given"), ("good\0", "null character"), ("bad", "bad: no such folder"), ("good/a.png", "no such")],
)
def test_text_that_names_no_folder_is_refused(folders: Folders, text: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        folders.resolve(text)


def test_image_that_links_outside_is_refused(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "images" / "good" / "b.png").symlink_to(tmp_path / "secret" / "a.png")
    with pytest.raises(DatasetError, match=r"b\.png: a link"):
        folders.images("good")


def test_suggestions_follow_no_links(folders: Folders, tmp_path: Path) -> None:
    assert folders.suggestions() == [str(tmp_path / "images"), str(tmp_path / "images" / "good")]


def test_without_roots_nothing_may_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="outside the folders"):
        Folders([]).resolve(str(tmp_path))
    with pytest.raises(DatasetError, match="no such folder"):
        Folders([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an image"),
        (b"some words", "not an image"),
        (image(1)[:-9], "not an image"),
        (png_file(0, 5), "header gives no size"),
        (b"x" * 1001, "larger than 0.001 MB"),
        (png_file(30_000, 30_000), "30,000 x 30,000 pixels"),
        (png_file(1001, 1000), "1,001 x 1,000 pixels"),
    ],
    ids=["empty", "text", "truncated", "no size", "large file", "30,000 squared", "a row too many"],
)
def test_image_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch, data: bytes, words: str) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=f"^a.png: .*{re.escape(words)}"):
        Limits(upload=1000, pixels=10**6).check_image("a.png", data)


def test_image_just_within_the_limits_is_accepted() -> None:
    Limits(upload=1000, pixels=10**6).check_image("a.png", png_file(1000, 1000))
    data = image(1)
    Limits(upload=len(data), pixels=80).check_image("a.png", data)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", []),
        (".jpg", []),
        (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".bmp", []),
        (".tif", []),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    ],
)
@pytest.mark.parametrize("channels", [3, 4])
def test_pixels_are_counted_in_every_format(suffix: str, options: list[int], channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (37, 91, channels), dtype=np.uint8)
    data = cv2.imencode(suffix, pixels, options)[1].tobytes()
    Limits(pixels=37 * 91).check_image("a", data)
    with pytest.raises(ImageError, match="91 x 37 pixels"):
        Limits(pixels=37 * 91 - 1).check_image("a", data)


def test_first_of_two_widths_in_a_tiff_counts() -> None:
    entries = [(256, 30_000), (257, 30_000), (256, 1), (257, 1)]
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    tiff = b"II*\0" + struct.pack("<IH", 8, len(entries)) + fields + bytes(4)
    with pytest.raises(ImageError, match="30,000 x 30,000"):
        Limits().check_image("a.tif", tiff)


@pytest.mark.parametrize(
    ("name", "display"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\images\\a.png", "a.png"),
        ("a\n\x1b[31m.png", "a??[31m.png"),
        ("", "image"),
        ("x" * 200, "x" * 80),
    ],
)
def test_display_name_is_one_printable_path_component(name: str, display: str) -> None:
    assert display_name(name) == display


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".hidden", "a b", "a\0", "-x", "a" * 101, "C:\\a"])
def test_path_is_not_a_model_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match="not a valid model name"):
        model_path(tmp_path, name)


def test_model_name_in_use_is_refused(tmp_path: Path) -> None:
    assert model_path(tmp_path, " part-1.safetensors ") == model_path(tmp_path, "part-1")
    (tmp_path / "part-1.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match=r"part-1.safetensors already exists"):
        model_path(tmp_path, "part-1")
