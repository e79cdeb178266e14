"""What a detector has learned and from which images, in memory and in a model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcore_plugin.plugins.protocols import MemoryBank

from .fitting.learners import Learned
from .fitting.store import Seen
from .thumbnail_tensors import pack_thumbnails, unpack_thumbnails


@dataclass(frozen=True, kw_only=True)
class FittedState:
    """What a detector knows beside its scorer and its calibration; by default nothing."""

    bank: MemoryBank | None = None
    radius_curve: list[tuple[int, float]] = field(default_factory=list)
    """As in `Learned`."""
    radius_is_exact: bool = True
    """Whether the covering radius is that of all patches seen, not a bound of it."""
    images: Sequence[Mapping[str, Any]] = ()
    """Path, height and width of each training image; the path of an array is None."""
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)
    """JPEG files, by the numbers of the images."""

    @property
    def covering_radius(self) -> float | None:
        """The radius of the whole bank; None if nothing was learned."""
        return self.radius_curve[-1][1] if self.radius_curve else None

    @cached_property
    def origin(self) -> NDArray[np.int64]:
        """Training image, row and column of every bank row, [M, 3], on the CPU, where predictions look them up."""
        assert self.bank is not None
        origin: NDArray[np.int64] = self.bank.origin.cpu().numpy()
        return origin

    def followed_by(self, learned: Learned, seen: Sequence[Seen]) -> FittedState:
        """Return what is known when, after the images that are known, those were seen and this was learned from all."""
        described = [{"path": item.path, "height": item.shape[0], "width": item.shape[1]} for item in seen]
        numbered = enumerate(seen, start=len(self.images))
        kept = {number: item.thumbnail for number, item in numbered if item.thumbnail is not None}
        return FittedState(
            bank=learned.bank,
            radius_curve=learned.radius_curve,
            radius_is_exact=learned.exact,
            images=[*self.images, *described],
            thumbnails={**self.thumbnails, **kept},
        )

    @classmethod
    def saved(
        cls, path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any], device: torch.device
    ) -> FittedState:
        """Return what a model file holds.

        Parameters
        ----------
        path
            The file, for messages.
        tensors, manifest
            What `tensors` and `manifest` returned, and more.
        device
            Where the bank is to be.

        Raises
        ------
        ModelFileError
            If its thumbnails are damaged.
        """
        levels = manifest.get("levels")
        bank = MemoryBank(
            tensors["bank.vectors"],
            tensors["bank.origin"],
            manifest["patches_seen"],
            tensors.get("bank.images"),
            None if levels is None else tuple(levels),
        )
        return cls(
            bank=bank.to(device),
            radius_curve=[(rows, radius) for rows, radius in manifest["radius_curve"]],
            radius_is_exact=manifest.get("radius_is_exact", True),
            images=manifest["photos"],
            thumbnails=unpack_thumbnails(path, tensors, len(manifest["photos"])),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return, for a model file, bank and thumbnails."""
        assert self.bank is not None
        images = {} if self.bank.descriptors is None else {"bank.images": self.bank.descriptors}
        thumbnails = pack_thumbnails(self.thumbnails, len(self.images))
        return {"bank.vectors": self.bank.vectors, "bank.origin": self.bank.origin, **images, **thumbnails}

    def manifest(self) -> dict[str, Any]:
        """Return, for a manifest, all else, as JSON-like data."""
        assert self.bank is not None
        return {
            "photos": self.images,
            "patches_seen": self.bank.seen,
            "levels": self.bank.levels,
            "covering_radius": self.covering_radius,
            "radius_curve": [list(point) for point in self.radius_curve],
            "radius_is_exact": self.radius_is_exact,
        }
