"""Find photos in files, folders and lists, and read the folder layout of MVTec AD."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from patchcore_plugin.errors import DatasetError

__all__ = [
    "PHOTO_SUFFIXES",
    "Category",
    "TestPhoto",
    "find_photos",
    "load_categories",
    "load_category",
    "training_photos",
]

PHOTO_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of files that are taken for photos when a folder is searched, in lower case."""

_LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class TestPhoto:
    """One photo of a test set.

    Attributes
    ----------
    path : Path
        The photo.
    kind : str
        Name of its folder: "good", or the kind of defect.
    is_anomalous : bool
        Whether its kind is another than "good".
    mask : Path or None
        The mask of its defects; None for a good photo, and for a defect photo that has none.
    """

    # Its name would make pytest take it for a class of tests.
    __test__ = False

    path: Path
    kind: str
    is_anomalous: bool
    mask: Path | None


@dataclass(frozen=True)
class Category:
    """One product: good photos to fit on, and photos to test with.

    Attributes
    ----------
    name : str
        Name of its folder.
    train : tuple of Path
        Good photos, at least one, in natural order.
    test : tuple of TestPhoto
        At least one, "good" first, then the kinds of defect in natural order.
    """

    name: str
    train: tuple[Path, ...]
    test: tuple[TestPhoto, ...]


def find_photos(inputs: Sequence[Path]) -> list[Path]:
    """Return the photos that files, folders and lists name.

    Parameters
    ----------
    inputs : sequence of Path
        Each is a photo (of any suffix); a folder, which is searched with its subfolders for files that have
        one of `PHOTO_SUFFIXES` and are not hidden; or a `.txt` file with one path a line, relative to the
        folder of the list, whose blank lines and lines that start with `#` are skipped.

    Returns
    -------
    list of Path
        In the order of `inputs`; within a folder in natural order (`2.png` before `10.png`). A file that is
        named twice is returned once, where it came first.

    Raises
    ------
    DatasetError
        A path does not exist, a list cannot be read, or there is no photo in one of the inputs.
    """
    if not inputs:
        raise DatasetError("no photos given; name files, folders, or .txt lists of paths")
    found: dict[Path, Path] = {}
    for entry in map(Path, inputs):
        for photo in _photos_of(entry):
            found.setdefault(photo.resolve(), photo)
    return list(found.values())


def training_photos(inputs: Sequence[Path]) -> list[Path]:
    """Return the good photos to fit on.

    Parameters
    ----------
    inputs : sequence of Path
        As of `find_photos`; of a folder in the MVTec AD layout only `train/good` is taken.

    Returns
    -------
    list of Path
        As of `find_photos`.

    Raises
    ------
    DatasetError
        As of `find_photos`; or an input holds many categories, or is a category without `train/good`.
    """
    return find_photos([_training_folder(Path(entry)) for entry in inputs])


def load_category(folder: Path) -> Category:
    """Read one category in the MVTec AD layout.

    Parameters
    ----------
    folder : Path
        Holds `train/good`, `test/KIND` and, for masks, `ground_truth/KIND/STEM_mask.png`. A mask may also
        have the photo's own stem, and any of `PHOTO_SUFFIXES`.

    Returns
    -------
    Category

    Raises
    ------
    DatasetError
        A folder is missing or holds no photo; the message names it.
    """
    folder = _existing_folder(folder)
    for needed in (folder / "train" / "good", folder / "test"):
        _require_folder(needed)
    test = folder / "test"
    kinds = sorted(_subfolders(test), key=lambda kind: (kind.name != "good", _natural(kind.name)))
    photos: list[TestPhoto] = []
    for kind in kinds:
        masks = _masks(folder / "ground_truth" / kind.name) if kind.name != "good" else {}
        photos += [TestPhoto(photo, kind.name, kind.name != "good", masks.get(photo.stem)) for photo in _search(kind)]
    if not photos:
        raise DatasetError(
            f"{test}: no photos in its subfolders ({', '.join(PHOTO_SUFFIXES)}); "
            "put good ones into test/good and others into test/KIND-OF-DEFECT"
        )
    name = folder.name or folder.resolve().name
    return Category(name, tuple(_photos_of(folder / "train" / "good")), tuple(photos))


def load_categories(folder: Path) -> list[Category]:
    """Read one category, or all categories of a root folder.

    Parameters
    ----------
    folder : Path
        One category as of `load_category`, or a folder of them; its other subfolders are skipped.

    Returns
    -------
    list of Category
        In natural order of their names; at least one.

    Raises
    ------
    DatasetError
        There is no category, or one of them is incomplete.
    """
    folder = _existing_folder(folder)
    if _is_category(folder):
        return [load_category(folder)]
    categories = _categories_in(folder)
    if not categories:
        raise DatasetError(
            f"{folder}: neither a category (train/good and test) nor a folder of categories; "
            "see the MVTec AD layout: CATEGORY/train/good, CATEGORY/test/KIND, CATEGORY/ground_truth/KIND"
        )
    return [load_category(category) for category in categories]


def _photos_of(entry: Path) -> list[Path]:
    """Return the photos of one input, at least one."""
    if entry.is_dir():
        photos = _search(entry)
        if not photos:
            raise DatasetError(f"{entry}: no photos in this folder ({', '.join(PHOTO_SUFFIXES)})")
        return photos
    if not entry.exists():
        raise DatasetError(f"{entry}: no such file or folder; check the path")
    return _listed(entry) if entry.suffix.lower() == _LIST_SUFFIX else [entry]


def _listed(file: Path) -> list[Path]:
    """Return the paths in a list, at least one, each of an existing file."""
    try:
        # Editors on Windows start a file with a byte-order mark.
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: not a readable list of paths ({error}); save it as UTF-8 text") from None
    photos: list[Path] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        photo = file.parent / text
        if not photo.is_file():
            raise DatasetError(f"{file}, line {number}: no such file: {photo}")
        photos.append(photo)
    if not photos:
        raise DatasetError(f"{file}: no paths in this list; write one photo a line")
    return photos


def _search(folder: Path) -> list[Path]:
    """Return the photos in a folder and its subfolders, in natural order; links to folders are followed."""
    photos: list[Path] = []
    visited: set[Path] = set()
    for parent, folders, files in os.walk(folder, onerror=_closed, followlinks=True):
        real = Path(parent).resolve()
        if real in visited:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)
        photos += [Path(parent, name) for name in files if _is_photo(name)]
    return sorted(photos, key=lambda photo: [_natural(part) for part in photo.relative_to(folder).parts])


def _is_photo(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(PHOTO_SUFFIXES)


def _natural(text: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a sort key that compares runs of digits as numbers, and all else without regard to case."""
    # The text itself breaks ties such as `1.png` and `01.png`, so that the order never depends on the disk.
    parts = re.findall(r"[0-9]+|[^0-9]+", text.casefold())
    return [(False, int(part), "") if part[0] in "0123456789" else (True, 0, part) for part in parts], text


def _masks(folder: Path) -> dict[str, Path]:
    """Return the masks of one kind of defect by the stem of their photo; none where the folder is missing."""
    masks: dict[str, Path] = {}
    found = _search(folder) if folder.is_dir() else []
    for mask in found:
        # A photo may itself be called `x_mask`: the usual name wins over the bare stem.
        if mask.stem.endswith("_mask"):
            masks[mask.stem.removesuffix("_mask")] = mask
    for mask in found:
        masks.setdefault(mask.stem, mask)
    return masks


def _training_folder(entry: Path) -> Path:
    if not entry.is_dir():
        return entry
    if _is_category(entry):
        good = entry / "train" / "good"
        _require_folder(good)
        return good
    categories = _categories_in(entry)
    if categories:
        names = ", ".join(category.name for category in categories)
        raise DatasetError(f"{entry}: holds categories, not photos of one product; choose one: {names}")
    return entry


def _is_category(folder: Path) -> bool:
    """Tell whether a folder has, or was meant to have, the layout of a category."""
    return (folder / "train" / "good").is_dir() or (
        (folder / "test").is_dir() and ((folder / "train").is_dir() or (folder / "test" / "good").is_dir())
    )


def _categories_in(folder: Path) -> list[Path]:
    return [subfolder for subfolder in _subfolders(folder) if _is_category(subfolder)]


def _subfolders(folder: Path) -> list[Path]:
    try:
        found = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        _closed(error)
    return sorted(found, key=lambda entry: _natural(entry.name))


def _closed(error: OSError) -> NoReturn:
    raise DatasetError(f"{error.filename}: cannot be opened ({error.strerror}); check its permissions") from error


def _existing_folder(folder: Path) -> Path:
    folder = Path(folder)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DatasetError(f"{folder}: a file; name the folder of a dataset")
    raise DatasetError(f"{folder}: no such folder; check the path")


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: this folder is missing; the MVTec AD layout needs train/good and test in a category"
        )
