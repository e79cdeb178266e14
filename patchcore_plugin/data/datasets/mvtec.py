"""Data sets with one folder per kind of image: MVTec AD, MPDD, converted VisA, and BTAD."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from patchcore_plugin.errors import DatasetError

from .files import IMAGE_SUFFIXES, ensure_name, list_subfolders, require_images, search_folder
from .types import GOOD, CategorySource, TestImage


@dataclass(frozen=True)
class FolderLayout:
    """The folders train/GOOD, test/GOOD, test/KIND and, for masks, ground_truth/KIND.

    Attributes
    ----------
    name : str
        Name of the data set, for messages.
    good : str
        Name of its folders of good images.
    """

    name: str
    good: str

    def list_train(self, folder: Path) -> list[Path]:
        """Return the images of train/GOOD."""
        good = folder / "train" / self.good
        if not good.is_dir():
            raise self._missing(folder, f"train/{self.good}", "put the good images there")
        return require_images(good)

    def list_test(self, folder: Path) -> list[TestImage]:
        """Return the images of all folders in test; each folder except GOOD is a kind of defect.

        Raises
        ------
        DatasetError
            If the folder ``test`` is missing or has no images.
        """
        test = folder / "test"
        advice = f"put good images into test/{self.good} and defective ones into test/KIND-OF-DEFECT"
        if not test.is_dir():
            raise self._missing(folder, "test", advice)
        images: list[TestImage] = []
        # sorted() is stable: the kinds of defect stay in natural order.
        for kind in sorted(list_subfolders(test), key=lambda kind: kind.name != self.good):
            paths = search_folder(kind)
            if kind.name == self.good:
                images += [TestImage(image, GOOD, False, None) for image in paths]
            else:
                masks = _find_masks(folder / "ground_truth" / kind.name)
                images += [TestImage(image, kind.name, True, masks.get(_stem(image, kind))) for image in paths]
        if not images:
            raise DatasetError(f"{test}: no images in its subfolders ({', '.join(IMAGE_SUFFIXES)}); {advice}")
        return images

    def _missing(self, folder: Path, subfolder: str, advice: str) -> DatasetError:
        return DatasetError(f"{folder}: looks like a category of {self.name}, but {subfolder} is missing; {advice}")


MVTEC = FolderLayout("MVTec AD", GOOD)
BTAD = FolderLayout("BTAD", "ok")


def find_category(folder: Path) -> CategorySource | None:
    """Return the category in a folder of this layout, complete or not; None if the layout is another one."""
    for split in ("train", "test"):
        for layout in (MVTEC, BTAD):
            if (folder / split / layout.good).is_dir():
                return _create_source(layout, folder)
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return _create_source(MVTEC, folder)
    return None


def _create_source(layout: FolderLayout, folder: Path) -> CategorySource:
    name = ensure_name(folder).name
    return CategorySource(name, partial(layout.list_train, folder), partial(layout.list_test, folder))


def _find_masks(folder: Path) -> dict[Path, Path]:
    """Return the masks of one kind of defect by the stems of their images; empty if the folder is missing."""
    masks: dict[Path, Path] = {}
    files = search_folder(folder) if folder.is_dir() else []
    for mask in files:
        # An image may itself be called `x_mask`, so `x_mask_mask` takes precedence over the bare stem.
        stem = _stem(mask, folder)
        if stem.name.endswith("_mask"):
            masks[stem.with_name(stem.name.removesuffix("_mask"))] = mask
    for mask in files:
        masks.setdefault(_stem(mask, folder), mask)
    return masks


def _stem(file: Path, folder: Path) -> Path:
    """Return the path of a file within a folder, without its suffix."""
    return file.relative_to(folder).with_suffix("")
