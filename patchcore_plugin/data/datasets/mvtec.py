"""Data sets whose folders are named by the verdict: MVTec AD, MPDD and converted VisA; and BTAD."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from patchcore_plugin.errors import DatasetError

from .files import IMAGE_SUFFIXES, named, require_images, search, subfolders
from .types import GOOD, Source, TestImage


@dataclass(frozen=True)
class Tree:
    """The layout train/GOOD, test/GOOD, test/KIND and, for masks, ground_truth/KIND.

    Attributes
    ----------
    name : str
        The data set that is known for it.
    good : str
        What it calls its folders of good images.
    """

    name: str
    good: str

    def train(self, folder: Path) -> list[Path]:
        """Return the images of train/GOOD."""
        good = folder / "train" / self.good
        if not good.is_dir():
            raise self._lacking(folder, f"train/{self.good}", "put the good images there")
        return require_images(good)

    def test(self, folder: Path) -> list[TestImage]:
        """Return the images of all folders of test; whichever is not GOOD is a kind of defect."""
        test = folder / "test"
        where = f"put good images into test/{self.good} and others into test/KIND-OF-DEFECT"
        if not test.is_dir():
            raise self._lacking(folder, "test", where)
        images: list[TestImage] = []
        # sorted() is stable: the kinds of defect stay in their natural order.
        for kind in sorted(subfolders(test), key=lambda kind: kind.name != self.good):
            if kind.name == self.good:
                images += [TestImage(image, GOOD, False, None) for image in search(kind)]
            else:
                masks = _masks(folder / "ground_truth" / kind.name)
                images += [TestImage(image, kind.name, True, masks.get(_stem(image, kind))) for image in search(kind)]
        if not images:
            raise DatasetError(f"{test}: no images in its subfolders ({', '.join(IMAGE_SUFFIXES)}); {where}")
        return images

    def _lacking(self, folder: Path, part: str, todo: str) -> DatasetError:
        return DatasetError(f"{folder}: looks like a category of {self.name}, but {part} is missing; {todo}")


MVTEC = Tree("MVTec AD", GOOD)
BTAD = Tree("BTAD", "ok")


def find(folder: Path) -> Source | None:
    """Return the category that a folder is, or was meant to be; None if it is no such category."""
    for part in ("train", "test"):
        for tree in (MVTEC, BTAD):
            if (folder / part / tree.good).is_dir():
                return _source(tree, folder)
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return _source(MVTEC, folder)
    return None


def _source(tree: Tree, folder: Path) -> Source:
    return Source(named(folder).name, partial(tree.train, folder), partial(tree.test, folder))


def _masks(folder: Path) -> dict[Path, Path]:
    """Return the masks of one kind of defect by the stem of their image; none where the folder is missing."""
    masks: dict[Path, Path] = {}
    found = search(folder) if folder.is_dir() else []
    for mask in found:
        # An image may itself be called `x_mask`: the usual name wins over the bare stem.
        stem = _stem(mask, folder)
        if stem.name.endswith("_mask"):
            masks[stem.with_name(stem.name.removesuffix("_mask"))] = mask
    for mask in found:
        masks.setdefault(_stem(mask, folder), mask)
    return masks


def _stem(file: Path, folder: Path) -> Path:
    """Return a file's path within a folder, without its suffix."""
    return file.relative_to(folder).with_suffix("")
