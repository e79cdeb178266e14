"""Results published in papers, for comparison."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class PublishedResult:
    """Mean results of a method over the 15 categories of MVTec AD.

    Parameters
    ----------
    method
        Name of the method.
    source
        arXiv number of the paper.
    image_auroc, pixel_auroc, aupro
        Metrics from 0 to 1; None if the paper does not report them.
    """

    method: str
    source: str
    image_auroc: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-like data."""
        return dataclasses.asdict(self)


NOTE = (
    "Published results are means over the 15 categories of MVTec AD, as reported by their authors. They were not "
    "reproduced here and are comparable only with means over all 15 categories."
)


def load_published_results() -> list[PublishedResult]:
    """Load the results that come with the package.

    Returns
    -------
    list of PublishedResult
        One entry per method, in display order.

    Examples
    --------
    >>> [result.image_auroc for result in load_published_results() if result.method == "PaDiM"]
    [0.953]
    """
    data = tomllib.loads(files(__package__).joinpath("published.toml").read_text(encoding="utf-8"))
    return [PublishedResult(**row) for row in data["mvtec_ad"]]
