"""KolektorSDD2: train and test, each flat, with the mask N_GT.png beside each image N.png.

The masks alone say which images are good: those whose mask is black. So they are read when the images are asked for.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from patchcore_plugin.errors import DatasetError, ImageError

from .files import images_in, named
from .types import DEFECT, GOOD, Source, TestImage

_MASK = "_GT"
_STRAY = "(copy)"
"""The archive itself holds `10301 (copy).png` and `10301_GT (copy).png`, which are not part of the data set."""


def find(folder: Path) -> Source | None:
    """Return the category that a folder is, or was meant to be; None if it is no such category."""
    if _has_masks(folder / "train") or _has_masks(folder / "test"):
        return Source(named(folder).name, partial(_train, folder), partial(_test, folder))
    return None


def refuse_half(folder: Path) -> None:
    """Raise `DatasetError` if a folder is train or test itself, whose masks would be taken for images."""
    if _has_masks(folder):
        raise DatasetError(
            f"{folder}: looks like one half of KolektorSDD2, images and masks side by side; "
            "name the folder above it, which holds train and test"
        )


def _train(folder: Path) -> list[Path]:
    """Return the good images of train; its defective ones are left out, because a fit learns from good ones only."""
    images = [image for image, _, is_anomalous in _judged(folder, "train") if not is_anomalous]
    if not images:
        raise DatasetError(f"{folder / 'train'}: no image has a black mask, so there is no good one to fit on")
    return images


def _test(folder: Path) -> list[TestImage]:
    judged = sorted(_judged(folder, "test"), key=lambda each: each[2])
    return [
        TestImage(image, DEFECT, True, mask) if is_anomalous else TestImage(image, GOOD, False, None)
        for image, mask, is_anomalous in judged
    ]


def _judged(folder: Path, part: str) -> list[tuple[Path, Path, bool]]:
    """Return each image with its mask, and whether the mask shows a defect."""
    if not (folder / part).is_dir():
        raise DatasetError(
            f"{folder}: looks like KolektorSDD2, but {part} is missing; "
            "it needs train and test, each with N_GT.png beside each N.png"
        )
    files = {file.stem: file for file in images_in(folder / part) if _STRAY not in file.stem}
    judged: list[tuple[Path, Path, bool]] = []
    for stem, image in files.items():
        if stem.endswith(_MASK):
            continue
        mask = files.get(stem + _MASK)
        if mask is None:
            raise DatasetError(
                f"{image}: has no mask {stem}{_MASK}.png beside it, so it is not known whether it is good; "
                "add one (black for a good image), or remove the image"
            )
        judged.append((image, mask, _shows_defect(mask)))
    if not judged:
        raise DatasetError(f"{folder / part}: no images in this folder; put N_GT.png beside each N.png")
    return judged


def _shows_defect(mask: Path) -> bool:
    from patchcore_plugin.data.images import read_mask

    try:
        return bool(read_mask(mask).any())
    except ImageError as error:
        raise DatasetError(
            f"{mask}: not a readable mask, so it is not known whether its image is good; replace it, or remove both"
        ) from error


def _has_masks(folder: Path) -> bool:
    stems = {image.stem for image in images_in(folder)} if folder.is_dir() else set()
    return any(stem + _MASK in stems for stem in stems)
