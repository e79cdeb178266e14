"""What a visitor may ask for: folders given at the start, images of bounded size, and names that are no paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from patchcore_plugin.data.datasets import find_images
from patchcore_plugin.data.headers import HeaderError, read_header
from patchcore_plugin.errors import DatasetError, ImageError, ModelFileError

SUFFIX = ".safetensors"
DEPTH, LISTED = 3, 200
"""How deep folders are searched for suggestions, and how many are suggested."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How large images may be, and how many a visit keeps.

    Parameters
    ----------
    upload
        Bytes of an image's file.
    pixels
        Pixels of an image.
    images
        Number of images that a visit keeps; the oldest go.
    memory
        Bytes of maps and uploaded files that all visits keep together; of the visit with most the oldest go.
    """

    upload: int = 50 * 10**6
    pixels: int = 100 * 10**6
    images: int = 200
    memory: int = 2 * 10**9

    def check_image(self, name: str, data: bytes) -> None:
        """Refuse an image by its size and its headers, before anything is decoded.

        Raises
        ------
        ImageError
            If the file is empty, too large, no image or cut short, or has too many pixels or none.
        """
        self.check_file(name, len(data))
        try:
            header = read_header(data)
        except HeaderError as error:
            raise ImageError(f"{name}: not an image: {error}") from None
        height, width = header.size
        if height * width > self.pixels:
            raise ImageError(
                f"{name}: {width:,} x {height:,} pixels are more than the {self.pixels / 1e6:g} million that are "
                "taken here; make the image smaller, or start the app with a higher --max-pixels"
            )
        if height * width == 0:
            raise ImageError(f"{name}: not an image: its headers do not say how large it is")
        if header.misread:
            raise ImageError(f"{name}: {header.misread} cannot be read; convert it to an 8 or 16 bit PNG")

    def check_file(self, name: str, size: int) -> None:
        """Refuse a file by the number of its bytes; ImageError."""
        if size > self.upload:
            raise ImageError(
                f"{name}: the file is larger than {self.upload / 1e6:g} MB; make it smaller, or start the app with a "
                "higher --max-upload"
            )


class Folders:
    """The folders that may be read.

    Parameters
    ----------
    roots
        Existing folders; what links in them lead to, elsewhere, is not theirs.

    Raises
    ------
    DatasetError
        If one is not a folder.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        for root in roots:
            if not root.is_dir():
                raise DatasetError(f"{root}: no such folder; give --images a folder that exists")
        self.roots = tuple(root.resolve() for root in roots)

    def allows(self, path: Path) -> bool:
        """Return whether a path lies in one of the folders, once links and ``..`` are followed."""
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):
            return False
        return any(real.is_relative_to(root) for root in self.roots)

    def folder(self, text: str) -> Path:
        """Return the folder that a visitor names, absolute or relative to one of the roots.

        Raises
        ------
        DatasetError
            If it lies elsewhere, whether or not it exists, or is not a folder.
        """
        text = text.strip()
        if not text:
            raise DatasetError("no folder given; choose one of those that are suggested")
        if "\0" in text:
            raise DatasetError("a folder's name cannot contain a null character")
        candidates = [root / text for root in self.roots]
        allowed = [path for path in candidates if self.allows(path)]
        if not allowed:
            # The same words whether it exists or not, so that nothing is learned of what lies elsewhere.
            raise DatasetError(f"{text}: outside of the folders that the app may read; they are given by --images")
        for path in allowed:
            if path.is_dir():
                return path.resolve()
        raise DatasetError(f"{text}: no such folder; choose one of those that are suggested")

    def check(self, images: Sequence[Path]) -> Sequence[Path]:
        """Return the images, all of which may be read.

        Raises
        ------
        DatasetError
            If one is a link that leads elsewhere.
        """
        for image in images:
            if not self.allows(image):
                raise DatasetError(f"{image}: a link out of the folders that the app may read; remove it")
        return images

    def images(self, text: str) -> Sequence[Path]:
        """Return the images of a folder that a visitor names, at least one; the errors are those of `folder`."""
        return self.check(find_images([self.folder(text)]))

    def suggestions(self) -> list[str]:
        """Return folders that a visitor may name; links are not followed."""
        found = [path for root in self.roots for path in _below(root, DEPTH)]
        return [str(path) for path in found[:LISTED]]


def model_path(folder: Path, name: str) -> Path:
    """Return where a model of that name is saved, in the folder itself.

    Raises
    ------
    ModelFileError
        If it is no plain name, or there is such a file.
    """
    stem = name.strip().removesuffix(SUFFIX)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", stem):
        raise ModelFileError(
            f"{name.strip()!r} cannot be a model's name; use letters, digits, '-', '_' and '.', and no folders"
        )
    path = folder / f"{stem}{SUFFIX}"
    if path.exists() or path.is_symlink():
        raise ModelFileError(f"{path.name} exists already in {folder}; choose another name")
    return path


def _below(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    if not depth:
        return
    try:
        with os.scandir(folder) as entries:
            inner = sorted(
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            )
    except OSError:
        return
    for name in inner:
        yield from _below(folder / name, depth - 1)
