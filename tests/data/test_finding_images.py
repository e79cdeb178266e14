"""Which images paths stand for: folders, files and lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchcore_plugin.data.datasets import IMAGE_SUFFIXES, find_images
from patchcore_plugin.errors import DatasetError
from tests.data.dataset_files import names, refused, touch


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)])
def test_a_folder_gives_every_image_suffix(tmp_path: Path, suffix: str) -> None:
    [image] = touch(tmp_path, f"a{suffix}")
    assert find_images([tmp_path]) == [image]


def test_a_folder_is_searched_deeply_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "b10.png", "b9.png", "B1.png", "a/2.png", "a/10.jpg", "c12/1.png", "c2/1.png")
    touch(tmp_path, "x/01.png", "x/1.png", "x/1b.png", "x/b.png")
    assert names(tmp_path, find_images([tmp_path])) == [
        *("a/2.png", "a/10.jpg", "B1.png", "b9.png", "b10.png", "c2/1.png", "c12/1.png"),
        *("x/01.png", "x/1.png", "x/1b.png", "x/b.png"),
    ]


def test_hidden_files_and_other_suffixes_are_ignored(tmp_path: Path) -> None:
    [image] = touch(tmp_path, "a.png")
    touch(tmp_path, ".b.png", "._a.png", ".thumbs/c.png", "notes.md", "d.png.part", "Thumbs.db", "png")
    assert find_images([tmp_path]) == [image]


def test_pictures_that_a_run_drew_are_left_out(tmp_path: Path) -> None:
    drawn = ["out/heat_maps/a.png", "out/overlays/a.png", "out/why/a.png"]
    others = ["a.png", "out/mine/b.png", "why/c.png"]
    touch(tmp_path, *drawn, *others)
    assert sorted(names(tmp_path, find_images([tmp_path]))) == sorted([*drawn, *others])
    touch(tmp_path, "out/results.jsonl")
    assert names(tmp_path, find_images([tmp_path])) == others
    assert names(tmp_path, find_images([tmp_path / "out" / "overlays"])) == ["out/overlays/a.png"]  # named by itself


def test_a_folder_named_like_a_image_is_no_image(tmp_path: Path) -> None:
    [image] = touch(tmp_path, "set.png/1.png")
    assert find_images([tmp_path]) == [image]


def test_inputs_keep_their_order_and_duplicates_are_dropped(tmp_path: Path) -> None:
    first, second, odd = touch(tmp_path, "b/2.png", "b/1.png", "image.raw")
    again = tmp_path / "b" / ".." / "b" / "2.png"
    assert find_images([odd, first, tmp_path / "b", again]) == [odd, first, second]


def test_a_link_to_a_folder_above_does_not_loop(tmp_path: Path) -> None:
    [image] = touch(tmp_path, "a/1.png")
    try:
        (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("links need a privilege here")
    assert find_images([tmp_path]) == [image]


def test_a_linked_folder_is_searched(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.png", "images/2.png")
    try:
        (tmp_path / "images" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    except OSError:
        pytest.skip("links need a privilege here")
    assert names(tmp_path, find_images([tmp_path / "images"])) == ["images/2.png", "images/more/1.png"]


def test_a_list_is_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "set/b/ü 2.png", "set/1.png", "other.png")
    absolute = (tmp_path / "other.png").as_posix()
    listed = tmp_path / "set" / "LIST.TXT"
    listed.write_text(f"# good ones\nb/ü 2.png\r\n\n  1.png  \n{absolute}\n1.png\n", encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    assert [p.name for p in find_images([Path("set/LIST.TXT")])] == ["ü 2.png", "1.png", "other.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{}: no paths in this list; write one image a line"),
        (b"# only\n\n", "{}: no paths in this list; write one image a line"),
        (b"1.png\n\ngone.png\n", "{}, line 3: no such file: {gone}"),
        (b"\xff\xfe1\0", "{}: not a readable list of paths ("),
    ],
)
def test_a_bad_list_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    touch(tmp_path, "1.png")
    listed = tmp_path / "list.txt"
    listed.write_bytes(content)
    said = refused(listed, lambda path: find_images([path]))
    assert said.startswith(message.format(listed, gone=tmp_path / "gone.png"))


def test_a_missing_path_and_no_paths_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone: no such file or folder; check the path$"):
        find_images([tmp_path / "gone"])
    with pytest.raises(DatasetError, match=r"^no images given; "):
        find_images([])


def test_a_folder_without_images_is_told_with_the_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "empty/readme.md")
    with pytest.raises(DatasetError) as caught:
        find_images([tmp_path / "good", tmp_path / "empty"])
    assert str(caught.value) == (
        f"{tmp_path / 'empty'}: no images in this folder (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp)"
    )
