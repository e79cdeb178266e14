"""KolektorSDD2, whose masks say which images are good."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchcore_plugin.data import images as images
from patchcore_plugin.data.datasets import Category, TestImage, find_training_images, load_categories
from tests.data.datasets.dataset_files import draw, good, refusal, touch, train_on, write


@pytest.fixture
def kolektor(tmp_path: Path) -> Path:
    root = tmp_path / "KSDD2"
    for name, blot in (("train/9999", 0), ("train/10000", 0), ("train/10001", 255), ("test/20000", 255)):
        draw(root / f"{name}.png", ground=90)
        draw(root / f"{name}_GT.png", blot=blot)
    draw(root / "test/20001.png", ground=90)
    draw(root / "test/20001_GT.png")
    # The published archive holds these two; the stem of the mask does not end in _GT.
    touch(root, "train/10301 (copy).png", "train/10301_GT (copy).png")
    return root


def test_data_set(kolektor: Path) -> None:
    train = (kolektor / "train/9999.png", kolektor / "train/10000.png")
    assert load_categories(kolektor) == [
        Category(
            "KSDD2",
            train,
            (
                good(kolektor / "test/20001.png"),
                TestImage(kolektor / "test/20000.png", "defect", True, kolektor / "test/20000_GT.png"),
            ),
        )
    ]
    assert find_training_images([kolektor]) == list(train)
    assert [category.name for category in load_categories(kolektor.parent)] == ["KSDD2"]


def test_fit_reads_masks_of_training_images_only(kolektor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    read_mask = images.read_mask

    def record(path: Path) -> object:
        names.append(path.name)
        return read_mask(path)

    monkeypatch.setattr(images, "read_mask", record)
    find_training_images([kolektor])
    assert names == ["9999_GT.png", "10000_GT.png", "10001_GT.png"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_half_of_the_data_set_is_refused(kolektor: Path, split: str) -> None:
    half = kolektor / split
    for read in (load_categories, train_on):
        assert "one half of KolektorSDD2" in refusal(half, read)
    half.rename(kolektor / "other")
    assert f"KolektorSDD2, but {split} is missing" in refusal(kolektor)
    half.mkdir()
    assert refusal(kolektor).startswith(f"{half}: no images")


def test_images_with_names_of_masks_are_images(tmp_path: Path) -> None:
    touch(tmp_path, "golf_GT.png", "polo.png")
    assert len(find_training_images([tmp_path])) == 2


def test_unreadable_or_missing_mask_is_refused(kolektor: Path) -> None:
    mask = kolektor / "train/10000_GT.png"
    write(mask, "not an image")
    assert refusal(kolektor).startswith(f"{mask}: not a readable mask")
    mask.unlink()
    assert refusal(kolektor).startswith(f"{kolektor / 'train/10000.png'}: mask 10000_GT.png is missing")


def test_data_set_without_good_images_is_refused(kolektor: Path) -> None:
    for name in ("9999", "10000"):
        draw(kolektor / f"train/{name}_GT.png", blot=255)
    assert refusal(kolektor).startswith(f"{kolektor / 'train'}: no good images")
