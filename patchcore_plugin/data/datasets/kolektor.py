"""KolektorSDD2: the folders train and test hold images N.png and their masks N_GT.png.

Only the masks say which images are good: those whose mask is black. The masks are read when the images are listed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

from patchcore_plugin.errors import DatasetError, ImageError

from .files import ensure_name, list_images
from .types import DEFECT, GOOD, CategorySource, TestImage

_MASK = "_GT"
_STRAY = "(copy)"
"""The published archive holds `10301 (copy).png` and `10301_GT (copy).png`, which are not part of the data set."""


class _Pair(NamedTuple):
    image: Path
    mask: Path
    is_anomalous: bool


def find_category(folder: Path) -> CategorySource | None:
    """Return the category in a folder of this layout, complete or not; None if the layout is another one."""
    if _has_masks(folder / "train") or _has_masks(folder / "test"):
        return CategorySource(ensure_name(folder).name, partial(_list_train, folder), partial(_list_test, folder))
    return None


def refuse_half(folder: Path) -> None:
    """Refuse the folder train or test itself, whose masks would pass for images.

    Raises
    ------
    DatasetError
        If the folder has masks next to its images.
    """
    if _has_masks(folder):
        raise DatasetError(
            f"{folder}: looks like one half of KolektorSDD2, with images and masks in one folder; "
            "pass its parent folder, which holds train and test"
        )


def _list_train(folder: Path) -> list[Path]:
    """Return the good images of train; a fit takes no defective ones."""
    images = [pair.image for pair in _list_pairs(folder, "train") if not pair.is_anomalous]
    if not images:
        raise DatasetError(f"{folder / 'train'}: no good images to fit on; the mask of a good image is black")
    return images


def _list_test(folder: Path) -> list[TestImage]:
    pairs = sorted(_list_pairs(folder, "test"), key=lambda pair: pair.is_anomalous)
    return [
        TestImage(image, DEFECT, True, mask) if is_anomalous else TestImage(image, GOOD, False, None)
        for image, mask, is_anomalous in pairs
    ]


def _list_pairs(folder: Path, split: str) -> list[_Pair]:
    if not (folder / split).is_dir():
        raise DatasetError(
            f"{folder}: looks like KolektorSDD2, but {split} is missing; "
            "it needs train and test, each with a mask N_GT.png for every image N.png"
        )
    files = {file.stem: file for file in list_images(folder / split) if _STRAY not in file.stem}
    pairs: list[_Pair] = []
    for stem, image in files.items():
        if stem.endswith(_MASK):
            continue
        mask = files.get(stem + _MASK)
        if mask is None:
            raise DatasetError(f"{image}: mask {stem}{_MASK}.png is missing; add it (black if the image is good)")
        pairs.append(_Pair(image, mask, _shows_defect(mask)))
    if not pairs:
        raise DatasetError(f"{folder / split}: no images in this folder; add N.png and its mask N_GT.png")
    return pairs


def _shows_defect(mask: Path) -> bool:
    from patchcore_plugin.data.images import read_mask

    try:
        return bool(read_mask(mask).any())
    except ImageError as error:
        raise DatasetError(f"{mask}: not a readable mask; replace it, or remove it and its image") from error


def _has_masks(folder: Path) -> bool:
    stems = {image.stem for image in list_images(folder)} if folder.is_dir() else set()
    return any(stem + _MASK in stems for stem in stems)
