"""The tables of a recipe that all members have in common: preprocessing and anomaly map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

Size = Annotated[int, Ge(8)]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the input of the network."""

    size: tuple[Size, Size] = (256, 256)
    """Height and width, in pixels, that the image is resized to (bilinear, antialiased)."""
    keep_aspect: bool = False
    """Resize the shorter side to its `size` and keep the proportions, rather than stretch; needs `crop`."""
    crop: tuple[Size, Size] | None = None
    """Height and width of the central part that is inspected; None for the whole image."""
    tile: tuple[Size, Size] | None = None
    """Height and width of the tiles that the network processes one at a time, for large images or small defects; None
    for the whole input at once."""
    overlap: Annotated[int, Ge(0)] = 0
    """Minimum overlap of neighbouring tiles, in pixels; features are blended there."""

    def __post_init__(self) -> None:
        if self.keep_aspect and self.crop is None:
            raise ValueError("keep_aspect needs crop, so that all images become inputs of one shape")
        if self.crop is not None and (self.crop[0] > self.size[0] or self.crop[1] > self.size[1]):
            raise ValueError(f"crop {list(self.crop)} is larger than size {list(self.size)}")
        height, width = self.crop or self.size
        if self.tile is not None and (self.tile[0] > height or self.tile[1] > width):
            raise ValueError(f"tile {list(self.tile)} is larger than the input, {[height, width]}")
        if self.overlap and (self.tile is None or self.overlap >= min(self.tile)):
            raise ValueError(f"overlap {self.overlap} must be smaller than both sides of a tile")


@dataclass(frozen=True, kw_only=True)
class Map:
    """How patch scores become an anomaly map."""

    sigma: Annotated[float, Ge(0), Le(1000)] = 4.0
    """Standard deviation of the Gaussian blur, in pixels of the network's input; 0 for none."""
    upsample: Literal["bilinear", "nearest"] = "bilinear"
    """Interpolation of patch scores to the size of the network's input, before the blur."""


TABLES: Mapping[str, type[Any]] = {"preprocessing": Preprocessing, "map": Map}
"""The tables of a recipe that all members have in common."""
