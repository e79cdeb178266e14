"""Limits on what a client may request: readable folders, image sizes and names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from patchcore_plugin.data.datasets import find_images
from patchcore_plugin.data.headers import HeaderError, read_header
from patchcore_plugin.errors import DatasetError, ImageError, ModelFileError

SUFFIX = ".safetensors"
SUGGESTION_DEPTH, MAX_SUGGESTIONS = 3, 200
"""Depth to which folders are searched for suggestions, and number of suggestions."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Largest accepted image, and how much the sessions store.

    Parameters
    ----------
    upload
        Size of an image file, in bytes.
    pixels
        Number of pixels of an image.
    images
        Number of images per session; the oldest are dropped.
    memory
        Bytes of anomaly maps and uploads in all sessions together. Above it, the session that stores most drops its
        oldest images.
    """

    upload: int = 50 * 10**6
    pixels: int = 100 * 10**6
    images: int = 200
    memory: int = 2 * 10**9

    def check_image(self, name: str, data: bytes) -> None:
        """Check the size and the headers of an image file before it is decoded.

        Parameters
        ----------
        name
            Name of the image in messages.
        data
            Content of the file.

        Raises
        ------
        ImageError
            If the file is too large, truncated, not a supported image, or has too many pixels.
        """
        self.check_size(name, len(data))
        try:
            header = read_header(data)
        except HeaderError as error:
            raise ImageError(f"{name}: not an image: {error}") from None
        height, width = header.size
        if height * width > self.pixels:
            raise ImageError(
                f"{name}: {width:,} x {height:,} pixels exceed the limit of {self.pixels / 1e6:g} million; "
                "resize the image, or start the app with a higher --max-pixels"
            )
        if height * width == 0:
            raise ImageError(f"{name}: not an image: its header gives no size")
        if header.misread:
            raise ImageError(f"{name}: {header.misread} is not supported; convert it to an 8- or 16-bit PNG")

    def check_size(self, name: str, size: int) -> None:
        """Raise `ImageError` if a file of `size` bytes is too large."""
        if size > self.upload:
            raise ImageError(
                f"{name}: the file is larger than {self.upload / 1e6:g} MB; resize the image, or start the app with a "
                "higher --max-upload"
            )


class Folders:
    """The folders that the app may read.

    Parameters
    ----------
    roots
        Existing folders. Links in them that lead elsewhere are not followed.

    Raises
    ------
    DatasetError
        If a root is not a folder.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        for root in roots:
            if not root.is_dir():
                raise DatasetError(f"{root}: no such folder; pass an existing folder to --images")
        self.roots = tuple(root.resolve() for root in roots)

    def allows(self, path: Path) -> bool:
        """Return whether a path lies in one of the roots after links and ``..`` are resolved."""
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):
            return False
        return any(real.is_relative_to(root) for root in self.roots)

    def resolve(self, text: str) -> Path:
        """Return the folder that a client names.

        Parameters
        ----------
        text
            Absolute path, or path relative to one of the roots.

        Returns
        -------
        Path
            The resolved folder.

        Raises
        ------
        DatasetError
            If the path lies outside the roots or is not a folder.
        """
        text = text.strip()
        if not text:
            raise DatasetError("no folder given; choose one of the suggested folders")
        if "\0" in text:
            raise DatasetError("a folder name cannot contain a null character")
        allowed = [path for path in (root / text for root in self.roots) if self.allows(path)]
        if not allowed:
            # One message whether the path exists or not, so that the app reveals nothing about other folders.
            raise DatasetError(f"{text}: outside the folders given with --images; choose one of the suggested folders")
        for path in allowed:
            if path.is_dir():
                return path.resolve()
        raise DatasetError(f"{text}: no such folder; choose one of the suggested folders")

    def check(self, images: Sequence[Path]) -> Sequence[Path]:
        """Return the images if all of them may be read.

        Raises
        ------
        DatasetError
            If an image is a link that leads outside the roots.
        """
        for image in images:
            if not self.allows(image):
                raise DatasetError(f"{image}: a link that leads outside the folders given with --images; remove it")
        return images

    def images(self, text: str) -> Sequence[Path]:
        """Return the images of the folder that a client names; raise the errors of `resolve` and `check`."""
        return self.check(find_images([self.resolve(text)]))

    def suggestions(self) -> list[str]:
        """Return the roots and their subfolders, without links and hidden folders."""
        below = (path for root in self.roots for path in _walk(root, SUGGESTION_DEPTH))
        return [str(path) for path in islice(below, MAX_SUGGESTIONS)]


def model_path(folder: Path, name: str) -> Path:
    """Return the path for a new model file.

    Parameters
    ----------
    folder
        Folder of the models.
    name
        Name of the model, with or without `SUFFIX`.

    Raises
    ------
    ModelFileError
        If the name contains a path or another special character, or is in use.
    """
    stem = name.strip().removesuffix(SUFFIX)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", stem):
        raise ModelFileError(
            f"{name.strip()!r} is not a valid model name; use letters, digits, '-', '_' and '.', without folders"
        )
    path = folder / f"{stem}{SUFFIX}"
    if path.exists() or path.is_symlink():
        raise ModelFileError(f"{path.name} already exists in {folder}; choose another name")
    return path


def display_name(name: str) -> str:
    """Return the name of an uploaded file for display: last path component, printable, at most 80 characters.

    Examples
    --------
    >>> display_name("../part/a.png")
    'a.png'
    """
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    printable = "".join(letter if letter.isprintable() else "?" for letter in last).strip()
    return printable[-80:] or "image"


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    if not depth:
        return
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            )
    except OSError:
        return
    for name in names:
        yield from _walk(folder / name, depth - 1)
