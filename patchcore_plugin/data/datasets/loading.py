"""Tell the layouts of data sets apart, and read whichever is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from patchcore_plugin.errors import DatasetError

from . import csv_table as table
from . import kolektor, visa
from . import mvtec as trees
from .files import find_images, subfolders
from .types import Category, Source

_LAYOUTS = (
    "MVTec AD, MPDD: CATEGORY/train/good, CATEGORY/test/KIND, CATEGORY/ground_truth/KIND",
    "BTAD: CATEGORY/train/ok, CATEGORY/test/ok, CATEGORY/test/ko, CATEGORY/ground_truth/ko",
    "VisA: split_csv/1cls.csv, CATEGORY/Data",
    "KolektorSDD2: train/N.png, train/N_GT.png, test/N.png, test/N_GT.png",
    f"a {table.SUFFIX} file: {', '.join(table.Columns().required)}",
)


def load_categories(dataset: Path) -> list[Category]:
    """Read a data set: one category, or all of them.

    Parameters
    ----------
    dataset : Path
        A folder in the layout of MVTec AD, MPDD, BTAD, VisA or KolektorSDD2, or a `.csv` file; or one category of
        these: its folder, or `FILE.csv/CATEGORY`. What else lies beside the categories is skipped.

    Returns
    -------
    list of Category
        In natural order of their names; at least one.

    Raises
    ------
    DatasetError
        The layout is not known, or a category is incomplete; the message says what is missing.
    """
    return [source.load() for source in _required(Path(dataset))]


def load_category(dataset: Path) -> Category:
    """Read a data set that is one category.

    Parameters
    ----------
    dataset : Path
        As of `load_categories`.

    Returns
    -------
    Category

    Raises
    ------
    DatasetError
        As of `load_categories`; or there are several categories.
    """
    return _only(Path(dataset), _required(Path(dataset))).load()


def training_images(inputs: Sequence[Path]) -> list[Path]:
    """Return the good images to fit on.

    Parameters
    ----------
    inputs : sequence of Path
        As of `find_images`; or data sets as of `load_categories`, of which the good training images are taken.

    Returns
    -------
    list of Path
        As of `find_images`.

    Raises
    ------
    DatasetError
        As of `find_images`; or an input holds several categories, or lacks its good images.
    """
    images: list[Path] = []
    for entry in map(Path, inputs):
        sources = _find(entry)
        images += _only(entry, sources).train() if sources else [entry]
    return find_images(images)


def _find(entry: Path) -> list[Source]:
    """Return the categories of a data set; none if the entry is in no known layout."""
    if _is_table(entry):
        return table.find(entry)
    if _is_table(entry.parent):
        found = table.find(entry.parent)
        chosen = [source for source in found if source.name == entry.name]
        if not chosen:
            names = ", ".join(source.name for source in found)
            raise DatasetError(f"{entry.parent}: no category {entry.name!r}; it has: {names}")
        return chosen
    if not entry.is_dir():
        return []
    kolektor.refuse_half(entry)
    return visa.find(entry) or _category(entry) or [each for folder in subfolders(entry) for each in _category(folder)]


def _category(folder: Path) -> list[Source]:
    """Return the one category that a folder is, if it is one."""
    source = kolektor.find(folder) or trees.find(folder)
    return [source] if source else []


def _is_table(file: Path) -> bool:
    return file.suffix.lower() == table.SUFFIX and file.is_file()


def _required(dataset: Path) -> list[Source]:
    sources = _find(dataset)
    if sources:
        return sources
    if dataset.is_dir():
        raise DatasetError(f"{dataset}: in none of the layouts that can be read; {'; '.join(_LAYOUTS)}")
    if dataset.exists():
        raise DatasetError(f"{dataset}: a file; name the folder of a data set, or a {table.SUFFIX} file")
    raise DatasetError(f"{dataset}: no such file or folder; check the path")


def _only(dataset: Path, sources: list[Source]) -> Source:
    if len(sources) > 1:
        names = ", ".join(source.name for source in sources)
        raise DatasetError(
            f"{dataset}: holds categories, not images of one product; "
            f"choose one, such as {dataset / sources[0].name}: {names}"
        )
    return sources[0]
