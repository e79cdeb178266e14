"""Recognition of layouts, roots of several categories, and training images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from patchcore_plugin.data.datasets import find_training_images, load_categories, load_category
from tests.data.datasets.dataset_files import names, refusal, touch, train_on


@pytest.fixture
def category(tmp_path: Path) -> Path:
    root = tmp_path / "bolt"
    touch(root, "train/good/10.png", "train/good/9.png", "test/good/0.png", "test/scratch/1.png")
    return root


def test_categories_of_a_root_come_in_natural_order(tmp_path: Path) -> None:
    for name in ("part10", "part9"):
        touch(tmp_path, f"{name}/train/good/1.png", f"{name}/test/good/1.png")
    touch(tmp_path, "docs/readme.md", ".cache/train/good/1.png", "license.txt")
    assert [category.name for category in load_categories(tmp_path)] == ["part9", "part10"]
    assert [category.name for category in load_categories(tmp_path / "part9")] == ["part9"]


def test_root_may_mix_layouts(category: Path) -> None:
    touch(category.parent, "01/train/ok/1.bmp", "01/test/ok/1.bmp")
    assert [found.name for found in load_categories(category.parent)] == ["01", "bolt"]


def test_root_with_an_incomplete_category_is_refused(category: Path) -> None:
    touch(category.parent, "nut/train/good/1.png")
    assert refusal(category.parent).startswith(f"{category.parent / 'nut'}: ")


def test_unknown_layout_is_refused_with_the_supported_ones(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.png")
    message = refusal(tmp_path)
    assert all(name in message for name in ("MVTec AD", "MPDD", "BTAD", "VisA", "KolektorSDD2", ".csv"))


@pytest.mark.parametrize("load", [load_category, load_categories])
def test_file_and_missing_path_are_refused(tmp_path: Path, load: Callable[[Path], object]) -> None:
    [file] = touch(tmp_path, "a.png")
    assert "not a data set" in refusal(file, load)
    assert "no such file" in refusal(tmp_path / "gone", load)


def test_training_images_of_a_category_are_the_good_ones(category: Path, tmp_path: Path) -> None:
    [more] = touch(tmp_path, "more/1.png")
    images = [category / "train/good/9.png", category / "train/good/10.png", more]
    assert find_training_images([category, tmp_path / "more"]) == images


def test_training_images_of_folders_files_and_lists(tmp_path: Path) -> None:
    first, second = touch(tmp_path, "a/x.png", "a/deep/y.png")
    (tmp_path / "list.txt").write_text("a/x.png\n")
    assert find_training_images([tmp_path / "list.txt", tmp_path / "a"]) == [first, second]


def test_several_categories_are_refused_where_one_is_needed(category: Path) -> None:
    touch(category.parent, "nut/train/good/1.png")
    for read in (train_on, load_category):
        message = refusal(category.parent, read)
        assert "several categories (bolt, nut)" in message
        assert str(category) in message


def test_training_images_of_a_root_with_one_category(category: Path) -> None:
    assert names(category, find_training_images([category.parent])) == ["train/good/9.png", "train/good/10.png"]
