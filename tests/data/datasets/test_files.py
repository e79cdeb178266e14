"""Images in folders, files and lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchcore_plugin.data.datasets import IMAGE_SUFFIXES, find_images
from patchcore_plugin.errors import DatasetError
from tests.data.datasets.dataset_files import names, refusal, touch


def test_every_image_suffix_is_found(tmp_path: Path) -> None:
    images = touch(tmp_path, *(f"a{suffix}" for suffix in IMAGE_SUFFIXES))
    images += touch(tmp_path, *(f"B{suffix.upper()}" for suffix in IMAGE_SUFFIXES))
    assert set(find_images([tmp_path])) == set(images)


def test_folder_is_searched_recursively_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "b10.png", "b9.png", "B1.png", "a/2.png", "a/10.jpg", "c12/1.png", "c2/1.png")
    touch(tmp_path, "x/01.png", "x/1.png", "x/1b.png", "x/b.png")
    assert names(tmp_path, find_images([tmp_path])) == [
        *("a/2.png", "a/10.jpg", "B1.png", "b9.png", "b10.png", "c2/1.png", "c12/1.png"),
        *("x/01.png", "x/1.png", "x/1b.png", "x/b.png"),
    ]


def test_hidden_files_and_other_suffixes_are_skipped(tmp_path: Path) -> None:
    [image] = touch(tmp_path, "a.png")
    touch(tmp_path, ".b.png", "._a.png", ".thumbs/c.png", "notes.md", "d.png.part", "Thumbs.db", "png")
    assert find_images([tmp_path]) == [image]


def test_drawings_next_to_results_are_skipped(tmp_path: Path) -> None:
    drawings = ["out/heat_maps/a.png", "out/overlays/a.png", "out/why/a.png"]
    images = ["a.png", "out/mine/b.png", "why/c.png"]
    touch(tmp_path, *drawings, *images)
    assert sorted(names(tmp_path, find_images([tmp_path]))) == sorted([*drawings, *images])
    touch(tmp_path, "out/results.jsonl")
    assert names(tmp_path, find_images([tmp_path])) == images
    # A folder of drawings that is named itself is searched.
    assert names(tmp_path, find_images([tmp_path / "out" / "overlays"])) == ["out/overlays/a.png"]


def test_folder_with_the_suffix_of_an_image_is_searched(tmp_path: Path) -> None:
    [image] = touch(tmp_path, "set.png/1.png")
    assert find_images([tmp_path]) == [image]


def test_inputs_keep_their_order_and_duplicates_are_dropped(tmp_path: Path) -> None:
    first, second, odd = touch(tmp_path, "b/2.png", "b/1.png", "image.raw")
    duplicate = tmp_path / "b" / ".." / "b" / "2.png"
    assert find_images([odd, first, tmp_path / "b", duplicate]) == [odd, first, second]


def test_link_to_a_parent_folder_does_not_loop(tmp_path: Path) -> None:
    [image] = touch(tmp_path, "a/1.png")
    try:
        (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("links need a privilege on this system")
    assert find_images([tmp_path]) == [image]


def test_linked_folder_is_searched(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.png", "images/2.png")
    try:
        (tmp_path / "images" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    except OSError:
        pytest.skip("links need a privilege on this system")
    assert names(tmp_path, find_images([tmp_path / "images"])) == ["images/2.png", "images/more/1.png"]


def test_paths_in_a_list_are_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "set/b/ü 2.png", "set/1.png", "other.png")
    absolute = (tmp_path / "other.png").as_posix()
    file = tmp_path / "set" / "LIST.TXT"
    file.write_text(f"# good ones\nb/ü 2.png\r\n\n  1.png  \n{absolute}\n1.png\n", encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    assert [image.name for image in find_images([Path("set/LIST.TXT")])] == ["ü 2.png", "1.png", "other.png"]


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "no paths"),
        (b"# only\n\n", "no paths"),
        (b"1.png\n\ngone.png\n", ", line 3: no such file: "),
        (b"\xff\xfe1\0", "UTF-8"),
    ],
)
def test_invalid_list_is_refused(tmp_path: Path, content: bytes, fact: str) -> None:
    touch(tmp_path, "1.png")
    file = tmp_path / "list.txt"
    file.write_bytes(content)
    message = refusal(file, lambda path: find_images([path]))
    assert message.startswith(str(file))
    assert fact in message


def test_missing_path_and_empty_input_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone: no such file"):
        find_images([tmp_path / "gone"])
    with pytest.raises(DatasetError, match=r"^no images given"):
        find_images([])


def test_folder_without_images_is_refused_with_the_supported_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "empty/readme.md")
    with pytest.raises(DatasetError) as caught:
        find_images([tmp_path / "good", tmp_path / "empty"])
    assert str(caught.value).startswith(f"{tmp_path / 'empty'}: ")
    assert all(suffix in str(caught.value) for suffix in IMAGE_SUFFIXES)
