"""Data sets with one folder per kind of image: MVTec AD, MPDD, converted VisA, and BTAD."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchcore_plugin.data.datasets import (
    Category,
    TestImage,
    find_training_images,
    load_categories,
    load_category,
)
from tests import real_images
from tests.data.datasets.dataset_files import good, refusal, touch, train_on


@pytest.fixture
def category(tmp_path: Path) -> Path:
    root = tmp_path / "bolt"
    touch(root, "train/good/10.png", "train/good/9.png", "test/good/0.png", "test/scratch/1.png")
    touch(root, "test/scratch/2.png", "test/a_stain/1.png", "ground_truth/scratch/1_mask.png")
    return root


def test_category(category: Path) -> None:
    assert load_category(category) == Category(
        name="bolt",
        train=(category / "train/good/9.png", category / "train/good/10.png"),
        test=(
            good(category / "test/good/0.png"),
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
def test_mask_has_the_stem_of_its_image_and_any_suffix(category: Path, mask: str) -> None:
    (category / "ground_truth/scratch/1_mask.png").unlink()
    [path] = touch(category, f"ground_truth/scratch/{mask}")
    masks = {image.path.stem: image.mask for image in load_category(category).test if image.kind == "scratch"}
    assert masks == {"1": path, "2": None}


def test_image_may_be_called_mask(category: Path) -> None:
    touch(category, "test/scratch/1_mask.png")
    [mask] = touch(category, "ground_truth/scratch/1_mask_mask.png")
    masks = {image.path.stem: image.mask for image in load_category(category).test}
    assert masks["1_mask"] == mask


def test_mask_belongs_to_the_image_in_its_own_subfolder(tmp_path: Path) -> None:
    """Masks in a folder per image, as in MVTec LOCO AD, are ignored; masks in a subfolder belong to its images."""
    touch(tmp_path, "train/good/1.png", "test/bent/000.png", "test/bent/001.png", "test/bent/left/000.png")
    touch(tmp_path, "ground_truth/bent/000/000.png", "ground_truth/bent/000/001.png")
    [left] = touch(tmp_path, "ground_truth/bent/left/000_mask.png")
    assert [image.mask for image in load_category(tmp_path).test] == [None, None, left]


def test_good_image_never_has_a_mask(category: Path) -> None:
    touch(category, "ground_truth/good/0_mask.png")
    assert load_category(category).test[0].mask is None


def test_category_in_the_current_folder_has_the_name_of_the_folder(
    category: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(category)
    assert load_category(Path()).name == "bolt"


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (["test/good/1.png", "train/bad/1.png"], "train/good is missing"),
        (["test/bad/1.png", "train/1.png"], "train/good is missing"),
        (["test/good/1.png"], "train/good is missing"),
        (["train/good/1.png"], "test is missing"),
        (["train/good/1.png", "test/good/a.md"], "/test: no images"),
        (["train/good/1.png", "test/1.png"], "/test: no images"),
        (["train/good/a.md", "test/good/1.png"], "/train/good: no images"),
    ],
)
def test_incomplete_category_is_refused(tmp_path: Path, files: list[str], problem: str) -> None:
    touch(tmp_path, *files)
    for load in (load_category, load_categories):
        assert problem in refusal(tmp_path, load)


def test_fit_needs_no_test_images(tmp_path: Path) -> None:
    [image] = touch(tmp_path, "train/good/1.png")
    assert find_training_images([tmp_path]) == [image]


def test_fit_on_a_category_without_good_images_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "test/good/1.png", "test/scratch/1.png")
    assert "train/good is missing" in refusal(tmp_path, train_on)


@pytest.mark.parametrize("mask", ["000_mask.png", "000.png"])
def test_mpdd_and_converted_visa(tmp_path: Path, mask: str) -> None:
    root = tmp_path / "bracket_black"
    touch(root, "train/good/000.png", "test/good/000.png", "test/hole/000.png", f"ground_truth/hole/{mask}")
    [category] = load_categories(tmp_path)
    assert category.test == (
        good(root / "test/good/000.png"),
        TestImage(root / "test/hole/000.png", "hole", True, root / "ground_truth/hole" / mask),
    )


# BTAD


@pytest.fixture
def btad(tmp_path: Path) -> Path:
    root = tmp_path / "BTech_Dataset_transformed"
    touch(root, "01/train/ok/0010.bmp", "01/train/ok/0009.bmp", "01/test/ok/0001.bmp")
    touch(root, "01/test/ko/0000.bmp", "01/test/ko/0002.bmp", "01/ground_truth/ko/0000.png")
    touch(root, "02/train/ok/0000.png", "02/test/ok/0000.png", "02/test/ko/0000.png", "02/ground_truth/ko/0000.png")
    return root


def test_btad(btad: Path) -> None:
    first, second = load_categories(btad)
    assert (first.name, second.name) == ("01", "02")
    assert first.train == (btad / "01/train/ok/0009.bmp", btad / "01/train/ok/0010.bmp")
    assert first.test == (
        good(btad / "01/test/ok/0001.bmp"),
        TestImage(btad / "01/test/ko/0000.bmp", "ko", True, btad / "01/ground_truth/ko/0000.png"),
        TestImage(btad / "01/test/ko/0002.bmp", "ko", True, None),
    )
    assert load_categories(btad / "01") == [first]
    assert find_training_images([btad / "01"]) == list(first.train)


def test_incomplete_btad_category_is_refused(btad: Path) -> None:
    for image in (btad / "01/train/ok").iterdir():
        image.unlink()
    (btad / "01/train/ok").rmdir()
    assert "BTAD, but train/ok is missing" in refusal(btad / "01")
    touch(btad, "03/train/ok/1.bmp")
    message = refusal(btad / "03")
    assert "BTAD, but test is missing" in message
    assert "test/ok" in message


@real_images.needed
def test_real_categories_are_complete() -> None:
    for category in load_categories(real_images.DATA):
        assert len(category.train) + len(category.test) > 40
        defects = [image for image in category.test if image.is_anomalous]
        assert defects
        assert all(image.mask is not None for image in defects)
