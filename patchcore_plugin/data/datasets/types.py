"""What is known of a data set: its categories, and the images of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GOOD = "good"
"""Kind of every image without a defect, whatever a data set calls it."""
DEFECT = "defect"
"""Kind of a defective image where a data set knows no kinds."""


@dataclass(frozen=True)
class TestImage:
    """One image of a test set.

    Attributes
    ----------
    path : Path
        The image.
    kind : str
        "good", or the kind of defect: the name of its folder, or "defect" where kinds are not told apart.
    is_anomalous : bool
        Whether its kind is another than "good".
    mask : Path or None
        The mask of its defects; None for a good image, and for a defect image that has none.
    """

    # Its name would make pytest take it for a class of tests.
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
        Name of its folder, or what a table calls it.
    train : tuple of Path
        Good images, at least one, in natural order.
    test : tuple of TestImage
        At least one, "good" first, then the kinds of defect in natural order.
    """

    name: str
    train: tuple[Path, ...]
    test: tuple[TestImage, ...]


@dataclass(frozen=True)
class Source:
    """One category as it lies on disk; its images are looked for when they are asked for.

    Attributes
    ----------
    name : str
        As of `Category`.
    train : callable
        Returns the good images to fit on, as of `Category`; raises `DatasetError` if there is none.
    test : callable
        Returns the images to test with, as of `Category`; raises `DatasetError` if there is none.
    """

    name: str
    train: Callable[[], list[Path]]
    test: Callable[[], list[TestImage]]

    def load(self) -> Category:
        """Return the category with all its images."""
        return Category(self.name, tuple(self.train()), tuple(self.test()))
