"""Recognise the layout of a data set and read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from patchcore_plugin.errors import DatasetError

from . import csv_table, kolektor, mvtec, visa
from .files import find_images, list_subfolders
from .types import Category, CategorySource

_LAYOUTS = (
    "MVTec AD (CATEGORY/train/good, CATEGORY/test/KIND), MPDD, BTAD, VisA, KolektorSDD2, "
    f"a {csv_table.SUFFIX} file ({', '.join(csv_table.Columns().required)})"
)


def load_categories(dataset: Path) -> list[Category]:
    """Read a data set: one category, or all of them.

    Parameters
    ----------
    dataset : Path
        A folder in the layout of MVTec AD, MPDD, BTAD, VisA or KolektorSDD2, or a ``.csv`` file; or one category of
        these: its folder, or ``FILE.csv/CATEGORY``. Other content of a folder is skipped.

    Returns
    -------
    list of Category
        In natural order of their names; at least one.

    Raises
    ------
    DatasetError
        If the layout is unknown, or a category is incomplete; the message says what is missing.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train/good/1.png", "test/good/2.png", "test/scratch/3.png"):
    ...         image = Path(folder, "bolt", name)
    ...         image.parent.mkdir(parents=True)
    ...         image.touch()
    ...     [category] = load_categories(Path(folder))
    >>> category.name, len(category.train), [image.kind for image in category.test]
    ('bolt', 1, ['good', 'scratch'])
    """
    return [source.load() for source in _require_sources(Path(dataset))]


def load_category(dataset: Path) -> Category:
    """Read a data set with one category.

    Parameters
    ----------
    dataset : Path
        The folder of a category, a data set with one category, a ``.csv`` file, or ``FILE.csv/CATEGORY``.

    Returns
    -------
    Category

    Raises
    ------
    DatasetError
        If the layout is unknown, the category is incomplete, or there are several.
    """
    return _require_one(Path(dataset), _require_sources(Path(dataset))).load()


def find_training_images(inputs: Sequence[Path]) -> list[Path]:
    """Return the good images to fit on.

    Parameters
    ----------
    inputs : sequence of Path
        Files, folders and lists, from which all images are taken; and data sets with one category, from which the good
        training images are taken.

    Returns
    -------
    list of Path
        In the order of `inputs`, without duplicates.

    Raises
    ------
    DatasetError
        If a path does not exist, an input has no images, or it has several categories.
    """
    images: list[Path] = []
    for entry in map(Path, inputs):
        sources = _find_sources(entry)
        images += _require_one(entry, sources).train() if sources else [entry]
    return find_images(images)


def _find_sources(entry: Path) -> list[CategorySource]:
    """Return the categories of a data set; empty if the layout is unknown."""
    if _is_table(entry):
        return csv_table.read_table(entry)
    if _is_table(entry.parent):
        sources = csv_table.read_table(entry.parent)
        selection = [source for source in sources if source.name == entry.name]
        if not selection:
            names = ", ".join(source.name for source in sources)
            raise DatasetError(f"{entry.parent}: no category {entry.name!r}; it has: {names}")
        return selection
    if not entry.is_dir():
        return []
    kolektor.refuse_half(entry)
    return (
        visa.find_categories(entry)
        or _find_category(entry)
        or [source for folder in list_subfolders(entry) for source in _find_category(folder)]
    )


def _find_category(folder: Path) -> list[CategorySource]:
    source = kolektor.find_category(folder) or mvtec.find_category(folder)
    return [source] if source else []


def _is_table(file: Path) -> bool:
    return file.suffix.lower() == csv_table.SUFFIX and file.is_file()


def _require_sources(dataset: Path) -> list[CategorySource]:
    sources = _find_sources(dataset)
    if sources:
        return sources
    if dataset.is_dir():
        raise DatasetError(f"{dataset}: not a data set in a supported layout: {_LAYOUTS}")
    if dataset.exists():
        raise DatasetError(f"{dataset}: not a data set; pass its folder, or a {csv_table.SUFFIX} file")
    raise DatasetError(f"{dataset}: no such file or folder; check the path")


def _require_one(dataset: Path, sources: list[CategorySource]) -> CategorySource:
    if len(sources) > 1:
        names = ", ".join(source.name for source in sources)
        example = dataset / sources[0].name
        raise DatasetError(f"{dataset}: has several categories ({names}); choose one, such as {example}")
    return sources[0]
