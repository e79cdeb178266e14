"""Drawn images of a part, and videos of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
GOOD, SPOT = (60, 120, 200), (250, 10, 10)
"""RGB of the part, and of its defect."""


def draw_part(*, defect: bool = False, size: tuple[int, int] = (48, 64), seed: int = 0) -> Image:
    """Return an RGB image [H, W, 3]."""
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), GOOD, dtype=np.uint8)
    image[::8] += 20
    if defect:
        image[size[0] // 2 : size[0] // 2 + 14, size[1] // 2 : size[1] // 2 + 14] = SPOT
    noisy: Image = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    return noisy


def write_image(path: Path, image: Image) -> Path:
    """Write an RGB image."""
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def write_video(path: Path, frames: Iterable[Image], *, code: str = "MJPG", size: tuple[int, int] = (48, 64)) -> Path:
    """Write RGB frames at 10 frames per second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10, (size[1], size[0]))  # type: ignore[attr-defined]
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path
