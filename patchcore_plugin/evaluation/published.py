"""Figures that others have published, as data with their sources."""

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
class Published:
    """A method's mean over the 15 categories of the full MVTec AD data set; each figure in 0..1, None if not given."""

    method: str
    source: str
    image_auroc: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-like data."""
        return dataclasses.asdict(self)


NOTE = (
    "Published figures: means over the 15 categories of the full MVTec AD data set, as their authors set it up. "
    "They were not measured here and compare only with figures of all 15 categories."
)


def published_figures() -> list[Published]:
    """Return the shipped figures."""
    data = tomllib.loads(files(__package__).joinpath("published.toml").read_text(encoding="utf-8"))
    return [Published(**row) for row in data["mvtec_ad"]]
