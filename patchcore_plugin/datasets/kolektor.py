"""KolektorSDD2: train and test, each flat, with the mask N_GT.png beside each photo N.png.

The masks alone say which photos are good: those whose mask is black. So they are read when the photos are asked for.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from patchcore_plugin.errors import DatasetError, ImageError

from .files import named, photos_in
from .records import DEFECT, GOOD, Source, TestPhoto

_MASK = "_GT"
_STRAY = "(copy)"
"""The archive itself holds `10301 (copy).png` and `10301_GT (copy).png`, which are not part of the data set."""


def find(folder: Path) -> Source | None:
    """Return the category that a folder is, or was meant to be; None if it is no such category."""
    if _has_masks(folder / "train") or _has_masks(folder / "test"):
        return Source(named(folder).name, partial(_train, folder), partial(_test, folder))
    return None


def refuse_half(folder: Path) -> None:
    """Raise `DatasetError` if a folder is train or test itself, whose masks would be taken for photos."""
    if _has_masks(folder):
        raise DatasetError(
            f"{folder}: looks like one half of KolektorSDD2, photos and masks side by side; "
            "name the folder above it, which holds train and test"
        )


def _train(folder: Path) -> list[Path]:
    """Return the good photos of train; its defective ones are left out, because a fit learns from good ones only."""
    photos = [photo for photo, _, is_anomalous in _judged(folder, "train") if not is_anomalous]
    if not photos:
        raise DatasetError(f"{folder / 'train'}: no photo has a black mask, so there is no good one to fit on")
    return photos


def _test(folder: Path) -> list[TestPhoto]:
    judged = sorted(_judged(folder, "test"), key=lambda each: each[2])
    return [
        TestPhoto(photo, DEFECT, True, mask) if is_anomalous else TestPhoto(photo, GOOD, False, None)
        for photo, mask, is_anomalous in judged
    ]


def _judged(folder: Path, part: str) -> list[tuple[Path, Path, bool]]:
    """Return each photo with its mask, and whether the mask shows a defect."""
    if not (folder / part).is_dir():
        raise DatasetError(
            f"{folder}: looks like KolektorSDD2, but {part} is missing; "
            "it needs train and test, each with N_GT.png beside each N.png"
        )
    files = {file.stem: file for file in photos_in(folder / part) if _STRAY not in file.stem}
    judged: list[tuple[Path, Path, bool]] = []
    for stem, photo in files.items():
        if stem.endswith(_MASK):
            continue
        mask = files.get(stem + _MASK)
        if mask is None:
            raise DatasetError(
                f"{photo}: has no mask {stem}{_MASK}.png beside it, so it is not known whether it is good; "
                "add one (black for a good photo), or remove the photo"
            )
        judged.append((photo, mask, _shows_defect(mask)))
    if not judged:
        raise DatasetError(f"{folder / part}: no photos in this folder; put N_GT.png beside each N.png")
    return judged


def _shows_defect(mask: Path) -> bool:
    from patchcore_plugin.images import read_mask

    try:
        return bool(read_mask(mask).any())
    except ImageError as error:
        raise DatasetError(
            f"{mask}: not a readable mask, so it is not known whether its photo is good; replace it, or remove both"
        ) from error


def _has_masks(folder: Path) -> bool:
    stems = {photo.stem for photo in photos_in(folder)} if folder.is_dir() else set()
    return any(stem + _MASK in stems for stem in stems)
