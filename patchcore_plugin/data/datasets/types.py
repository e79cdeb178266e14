"""Categories of a data set and their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GOOD = "good"
"""Kind of every image without a defect, in all data sets."""
DEFECT = "defect"
"""Kind of a defective image if the data set does not distinguish kinds."""


@dataclass(frozen=True)
class TestImage:
    """One test image.

    Attributes
    ----------
    path : Path
        The image file.
    kind : str
        "good", or the kind of defect: the name of its folder, or "defect" if the data set does not distinguish kinds.
    is_anomalous : bool
        Whether the image is defective.
    mask : Path or None
        Mask of the defects; None for a good image, and for a defective image without a mask.
    """

    # Otherwise pytest collects the class because of its name.
    __test__ = False

    path: Path
    kind: str
    is_anomalous: bool
    mask: Path | None


@dataclass(frozen=True)
class Category:
    """One product: good images to fit on, and images to test with.

    Attributes
    ----------
    name : str
        Name of the folder, or of the category in a table.
    train : tuple of Path
        Good images, at least one, in natural order.
    test : tuple of TestImage
        At least one: good images first, then the kinds of defect in natural order.
    """

    name: str
    train: tuple[Path, ...]
    test: tuple[TestImage, ...]


@dataclass(frozen=True)
class CategorySource:
    """One category on disk, whose images are listed on demand.

    Attributes
    ----------
    name : str
        Name of the category.
    train : callable
        Returns the good images to fit on; raises `DatasetError` if there are none.
    test : callable
        Returns the images to test with; raises `DatasetError` if there are none.
    """

    name: str
    train: Callable[[], list[Path]]
    test: Callable[[], list[TestImage]]

    def load(self) -> Category:
        """Return the category with all its images."""
        return Category(self.name, tuple(self.train()), tuple(self.test()))
