"""VisA as published: CATEGORY/Data holds all images, and split_csv/1cls.csv assigns them to train and test."""

from __future__ import annotations

from pathlib import Path

from patchcore_plugin.errors import DatasetError

from . import csv_table
from .files import ensure_name, list_subfolders
from .types import CategorySource

_SPLIT = "split_csv/1cls.csv"
_COLUMNS = csv_table.Columns(path="image", category="object", required=("object", "split", "label", "image", "mask"))


def find_categories(folder: Path) -> list[CategorySource]:
    """Return the categories in a VisA root, or the one in a category folder; empty if the layout is another one."""
    if _is_category(folder):
        folder = ensure_name(folder)
        return _read_split(folder.parent, folder.name)
    if (folder / _SPLIT).is_file() or any(map(_is_category, list_subfolders(folder))):
        return _read_split(folder, None)
    return []


def _read_split(root: Path, category: str | None) -> list[CategorySource]:
    split = root / _SPLIT
    if not split.is_file():
        problem = f"{root / category}: looks like a category of VisA" if category else f"{root}: looks like VisA"
        example = root / (category or "CATEGORY") / "Data" / "Images" / "Normal"
        raise DatasetError(
            f"{problem}, but {split if category else _SPLIT} is missing; "
            f"copy it from the data set, or fit on all good images of a category: {example}"
        )
    sources = csv_table.read_table(split, _COLUMNS, root)
    names = ", ".join(source.name for source in sources)
    if category:
        sources = [source for source in sources if source.name == category]
        if not sources:
            raise DatasetError(f"{root / category}: {split} has no such object; it has: {names}")
        return sources
    # A user who needs one category unpacks only that one.
    sources = [source for source in sources if (root / source.name).is_dir()]
    if not sources:
        raise DatasetError(f"{root}: looks like VisA, but has none of the folders in {_SPLIT}: {names}")
    return sources


def _is_category(folder: Path) -> bool:
    return (folder / "Data" / "Images").is_dir()
