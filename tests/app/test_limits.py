"""Folders that may be read, images that are refused, and names that are no paths."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchcore_plugin.app.limits import Folders, Limits, model_path
from patchcore_plugin.app.visit import display_name
from patchcore_plugin.data.headers import read_header
from patchcore_plugin.errors import DatasetError, ImageError, ModelFileError
from tests.app.fakes import image, png_header


def test_a_folder_below_a_root_is_found_by_either_name(folders: Folders, tmp_path: Path) -> None:
    for text in ("good", " good/ ", str(tmp_path / "images" / "good"), "good/../good", "../images/good"):
        assert folders.folder(text) == tmp_path / "images" / "good"
    assert folders.images("good") == [tmp_path / "images" / "good" / "a.png"]


@pytest.mark.parametrize("text", ["..", "../images2", "{}/images2", "/etc", "link", "good/../../secret", "../nowhere"])
def test_a_folder_elsewhere_is_refused_whether_it_exists_or_not(folders: Folders, tmp_path: Path, text: str) -> None:
    text = text.format(tmp_path)
    with pytest.raises(DatasetError) as caught:
        folders.folder(text)
    assert str(caught.value) == f"{text}: outside of the folders that the app may read; they are given by --images"


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no folder given"), ("good\0", "null character"), ("bad", "bad: no such folder"), ("good/a.png", "no such")],
)
def test_what_is_no_folder_is_told(folders: Folders, text: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        folders.folder(text)


def test_a_image_that_is_a_link_elsewhere_is_refused(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "images" / "good" / "b.png").symlink_to(tmp_path / "secret" / "a.png")
    with pytest.raises(DatasetError, match=r"b\.png: a link out of the folders that the app may read"):
        folders.images("good")


def test_suggestions_follow_no_links(folders: Folders, tmp_path: Path) -> None:
    assert folders.suggestions() == [str(tmp_path / "images"), str(tmp_path / "images" / "good")]


def test_without_roots_nothing_may_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="outside of the folders"):
        Folders([]).folder(str(tmp_path))
    with pytest.raises(DatasetError, match="no such folder; give --images a folder that exists"):
        Folders([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.png", b"", "a.png: not an image: the file is empty"),
        ("a.png", b"some words", "a.png: not an image: it holds text"),
        ("a.png", image(1)[:-9], "a.png: not an image: the file is cut short"),
        ("a.png", png_header(0, 5), "a.png: not an image: its headers do not say how large it is"),
        ("a.png", b"x" * 1001, "a.png: the file is larger than 0.001 MB; make it smaller, or start the app with a "),
        ("a.png", png_header(30_000, 30_000), "a.png: 30,000 x 30,000 pixels are more than the 1 million that are"),
        ("a.png", png_header(1001, 1000), "a.png: 1,001 x 1,000 pixels are more than"),
    ],
    ids=["empty", "text", "cut", "no size", "large file", "30,000 squared", "a row too many"],
)
def test_a_image_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, words: str
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=re.escape(words)):
        Limits(upload=1000, pixels=10**6).check_image(name, data)


def test_a_image_just_within_the_limits_is_taken() -> None:
    Limits(upload=1000, pixels=10**6).check_image("a.png", png_header(1000, 1000))
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
def test_the_headers_say_the_size_that_is_decoded(suffix: str, options: list[int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (37, 91, 3), dtype=np.uint8)
    assert read_header(cv2.imencode(suffix, pixels, options)[1].tobytes()).size == (37, 91)


def test_a_webp_with_a_canvas_says_its_size() -> None:
    pixels = np.zeros((5, 7, 4), np.uint8)
    pixels[0, 0, 3] = 255
    lossy = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 50])[1].tobytes()
    assert lossy[12:16] == b"VP8X"
    assert read_header(lossy).size == (5, 7)


def test_of_two_widths_in_a_tiff_the_first_counts() -> None:
    entries = [(256, 30_000), (257, 30_000), (256, 1), (257, 1)]
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    tiff = b"II*\0" + struct.pack("<IH", 8, len(entries)) + fields + bytes(4)
    assert read_header(tiff).size == (30_000, 30_000)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\images\\a.png", "a.png"),
        ("a\n\x1b[31m.png", "a??[31m.png"),
        ("", "image"),
        ("x" * 200, "x" * 80),
    ],
)
def test_the_name_of_an_upload_is_for_people(name: str, shown: str) -> None:
    assert display_name(name) == shown


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".hidden", "a b", "a\0", "-x", "a" * 101, "C:\\a"])
def test_a_name_that_is_a_path_is_no_models_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match="cannot be a model's name"):
        model_path(tmp_path, name)


def test_a_models_name_in_use_is_refused(tmp_path: Path) -> None:
    assert model_path(tmp_path, " part-1.safetensors ") == model_path(tmp_path, "part-1")
    (tmp_path / "part-1.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match=r"part-1.safetensors exists already in .*; choose another name"):
        model_path(tmp_path, "part-1")
