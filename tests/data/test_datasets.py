"""Categories in the layout of MVTec AD, folders of them, and the images to train on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from patchcore_plugin.data.datasets import (
    IMAGE_SUFFIXES,
    Category,
    TestImage,
    load_categories,
    load_category,
    training_images,
)
from tests import real_images
from tests.data.dataset_files import names, refused, touch, train_on

SUFFIXES = ", ".join(IMAGE_SUFFIXES)
WHERE = "put good images into test/good and others into test/KIND-OF-DEFECT"
NO_TRAIN = "{}: looks like a category of MVTec AD, but train/good is missing; put the good images there"
NO_TEST = f"{{}}: looks like a category of MVTec AD, but test is missing; {WHERE}"


@pytest.fixture
def category(tmp_path: Path) -> Path:
    root = tmp_path / "bolt"
    touch(root, "train/good/10.png", "train/good/9.png", "test/good/0.png", "test/scratch/1.png")
    touch(root, "test/scratch/2.png", "test/a_stain/1.png", "ground_truth/scratch/1_mask.png")
    return root


def test_importing_needs_no_image_library() -> None:
    code = (
        "import sys, patchcore_plugin.data.datasets; "
        "print([m for m in ('cv2', 'numpy', 'torch', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_category_is_read(category: Path) -> None:
    assert load_category(category) == Category(
        name="bolt",
        train=(category / "train/good/9.png", category / "train/good/10.png"),
        test=(
            TestImage(category / "test/good/0.png", "good", False, None),
            TestImage(category / "test/a_stain/1.png", "a_stain", True, None),
            TestImage(
                category / "test/scratch/1.png",
                "scratch",
                True,
                category / "ground_truth/scratch/1_mask.png",
            ),
            TestImage(category / "test/scratch/2.png", "scratch", True, None),
        ),
    )


@pytest.mark.parametrize("mask", ["1_mask.png", "1.png", "1_mask.bmp", "1.tiff"])
def test_a_mask_may_have_the_stem_and_any_suffix(category: Path, mask: str) -> None:
    (category / "ground_truth/scratch/1_mask.png").unlink()
    [path] = touch(category, f"ground_truth/scratch/{mask}")
    assert {image.path.stem: image.mask for image in load_category(category).test if image.kind == "scratch"} == {
        "1": path,
        "2": None,
    }


def test_masks_of_images_that_are_called_masks(category: Path) -> None:
    touch(category, "test/scratch/1_mask.png")
    [own] = touch(category, "ground_truth/scratch/1_mask_mask.png")
    masks = {image.path.stem: image.mask for image in load_category(category).test}
    assert masks["1_mask"] == own


def test_a_good_image_never_has_a_mask(category: Path) -> None:
    touch(category, "ground_truth/good/0_mask.png")
    assert load_category(category).test[0].mask is None


def test_a_category_is_named_by_its_folder_however_it_is_given(category: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(category)
    assert load_category(Path()).name == "bolt"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["test/good/1.png", "train/bad/1.png"], NO_TRAIN),
        (["test/bad/1.png", "train/1.png"], NO_TRAIN),
        (["test/good/1.png"], NO_TRAIN),
        (["train/good/1.png"], NO_TEST),
        (["train/good/1.png", "test/good/a.md"], f"{{}}/test: no images in its subfolders ({SUFFIXES}); {WHERE}"),
        (["train/good/1.png", "test/1.png"], f"{{}}/test: no images in its subfolders ({SUFFIXES}); {WHERE}"),
        (["train/good/a.md", "test/good/1.png"], f"{{}}/train/good: no images in this folder ({SUFFIXES})"),
    ],
)
def test_an_incomplete_category_says_what_is_missing(tmp_path: Path, files: list[str], message: str) -> None:
    touch(tmp_path, *files)
    for load in (load_category, load_categories):
        assert refused(tmp_path, load) == message.format(tmp_path)


@pytest.mark.parametrize("load", [load_category, load_categories])
def test_what_is_no_folder_is_told(tmp_path: Path, load: Callable[[Path], object]) -> None:
    [file] = touch(tmp_path, "a.png")
    assert refused(file, load) == f"{file}: a file; name the folder of a data set, or a .csv file"
    assert refused(tmp_path / "gone", load) == f"{tmp_path / 'gone'}: no such file or folder; check the path"


def test_a_root_gives_its_categories_in_natural_order(tmp_path: Path) -> None:
    for name in ("part10", "part9"):
        touch(tmp_path, f"{name}/train/good/1.png", f"{name}/test/good/1.png")
    touch(tmp_path, "docs/readme.md", ".cache/train/good/1.png", "license.txt")
    assert [found.name for found in load_categories(tmp_path)] == ["part9", "part10"]
    assert [found.name for found in load_categories(tmp_path / "part9")] == ["part9"]


def test_an_incomplete_category_of_a_root_is_told(category: Path) -> None:
    touch(category.parent, "nut/train/good/1.png")
    assert refused(category.parent) == NO_TEST.format(category.parent / "nut")


def test_a_folder_of_other_things_is_no_root(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.png")
    assert refused(tmp_path) == (
        f"{tmp_path}: in none of the layouts that can be read; "
        "MVTec AD, MPDD: CATEGORY/train/good, CATEGORY/test/KIND, CATEGORY/ground_truth/KIND; "
        "BTAD: CATEGORY/train/ok, CATEGORY/test/ok, CATEGORY/test/ko, CATEGORY/ground_truth/ko; "
        "VisA: split_csv/1cls.csv, CATEGORY/Data; "
        "KolektorSDD2: train/N.png, train/N_GT.png, test/N.png, test/N_GT.png; "
        "a .csv file: path, label, split"
    )


def test_training_takes_the_good_ones_of_a_category(category: Path, tmp_path: Path) -> None:
    [more] = touch(tmp_path, "more/1.png")
    assert training_images([category, tmp_path / "more"]) == [
        category / "train/good/9.png",
        category / "train/good/10.png",
        more,
    ]


def test_training_takes_plain_folders_files_and_lists(tmp_path: Path) -> None:
    first, second = touch(tmp_path, "a/x.png", "a/deep/y.png")
    (tmp_path / "list.txt").write_text("a/x.png\n")
    assert training_images([tmp_path / "list.txt", tmp_path / "a"]) == [first, second]


def test_training_on_many_categories_asks_for_one(category: Path) -> None:
    touch(category.parent, "nut/train/good/1.png")
    for read in (train_on, load_category):
        assert refused(category.parent, read) == (
            f"{category.parent}: holds categories, not images of one product; choose one, such as {category}: bolt, nut"
        )


def test_training_on_a_root_of_one_category_takes_it(category: Path) -> None:
    assert names(category, training_images([category.parent])) == ["train/good/9.png", "train/good/10.png"]


def test_training_on_a_category_without_good_images_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "test/good/1.png", "test/scratch/1.png")
    assert refused(tmp_path, train_on) == NO_TRAIN.format(tmp_path)


def test_training_needs_no_test_images(tmp_path: Path) -> None:
    [good] = touch(tmp_path, "train/good/1.png")
    assert training_images([tmp_path]) == [good]


def test_a_mask_belongs_to_the_image_in_its_own_subfolder(tmp_path: Path) -> None:
    """Masks in a folder per image, as of MVTec LOCO AD, are nobody's; those of a subfolder are its images'."""
    touch(tmp_path, "train/good/1.png", "test/bent/000.png", "test/bent/001.png", "test/bent/left/000.png")
    touch(tmp_path, "ground_truth/bent/000/000.png", "ground_truth/bent/000/001.png")
    [left] = touch(tmp_path, "ground_truth/bent/left/000_mask.png")
    assert [image.mask for image in load_category(tmp_path).test] == [None, None, left]


@real_images.needed
def test_real_categories_are_complete() -> None:
    for category in load_categories(real_images.DATA):
        assert len(category.train) + len(category.test) > 40
        defects = [image for image in category.test if image.is_anomalous]
        assert defects
        assert all(image.mask is not None for image in defects)
