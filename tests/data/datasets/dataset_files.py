"""Files of data sets, most of them empty, and helpers that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchcore_plugin.data.datasets import TestImage, find_training_images, load_categories
from patchcore_plugin.errors import DatasetError


def touch(root: Path, *names: str) -> list[Path]:
    """Create empty files; opening one as an image would fail."""
    paths = [root / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def draw(path: Path, *, blot: int = 0, size: tuple[int, int] = (48, 64), ground: int = 0) -> Path:
    """Write an image of one shade, with a blot of another shade if given."""
    pixels = np.full(size, ground, dtype=np.uint8)
    pixels[10:20, 10:20] = blot or ground
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def good(path: Path) -> TestImage:
    return TestImage(path, "good", False, None)


def refusal(dataset: Path, read: Callable[[Path], object] = load_categories) -> str:
    """Return the one-line message of the error with which a data set is refused."""
    with pytest.raises(DatasetError) as caught:
        read(dataset)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(root: Path, images: list[Path]) -> list[str]:
    return [image.relative_to(root).as_posix() for image in images]


def train_on(folder: Path) -> list[Path]:
    return find_training_images([folder])
