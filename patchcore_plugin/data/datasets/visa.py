"""VisA as it is published: CATEGORY/Data with all images, and split_csv/1cls.csv that says what is for what."""

from __future__ import annotations

from pathlib import Path

from patchcore_plugin.errors import DatasetError

from . import csv_table as table
from .files import named, subfolders
from .types import Source

_SPLIT = "split_csv/1cls.csv"
_COLUMNS = table.Columns(path="image", category="object", required=("object", "split", "label", "image", "mask"))


def find(folder: Path) -> list[Source]:
    """Return the categories of a VisA root, or the one that a folder is; none if it is neither."""
    if _is_category(folder):
        folder = named(folder)
        return _within(folder.parent, folder.name)
    if (folder / _SPLIT).is_file() or any(map(_is_category, subfolders(folder))):
        return _within(folder, None)
    return []


def _within(root: Path, only: str | None) -> list[Source]:
    split = root / _SPLIT
    if not split.is_file():
        what = f"{root / only}: looks like a category of VisA" if only else f"{root}: looks like VisA"
        example = root / (only or "CATEGORY") / "Data" / "Images" / "Normal"
        raise DatasetError(
            f"{what}, but {split if only else _SPLIT} is missing; "
            f"copy it from the data set, or fit on all good images of a category: {example}"
        )
    found = table.find(split, _COLUMNS, root)
    if only:
        chosen = [source for source in found if source.name == only]
        if not chosen:
            names = ", ".join(source.name for source in found)
            raise DatasetError(f"{root / only}: {split} has no such object; it has: {names}")
        return chosen
    # Who wants one category unpacks one.
    present = [source for source in found if (root / source.name).is_dir()]
    if not present:
        names = ", ".join(source.name for source in found)
        raise DatasetError(f"{root}: looks like VisA, but has none of the folders in {_SPLIT}: {names}")
    return present


def _is_category(folder: Path) -> bool:
    return (folder / "Data" / "Images").is_dir()
