"""A fitted member, in memory and in a model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcore_plugin.plugins.protocols import MemoryBank, Scorer

_SCORER = "scorer."


@dataclass(frozen=True, kw_only=True)
class FittedState:
    """A fitted scorer with its memory bank.

    Parameters
    ----------
    scorer
        Fitted on the bank.
    bank
        Without rows, if the scorer was fitted batch by batch.
    radius_curve
        Numbers of rows and their covering radius, those of the whole bank last; empty without rows.
    radius_is_exact
        Whether the covering radius is that of all patches seen, not an upper bound of it.
    """

    scorer: Scorer
    bank: MemoryBank
    radius_curve: list[tuple[int, float]] = field(default_factory=list)
    radius_is_exact: bool = True

    @property
    def covering_radius(self) -> float | None:
        """Covering radius of the whole bank; None if it has no rows."""
        return self.radius_curve[-1][1] if self.radius_curve else None

    @cached_property
    def origin(self) -> NDArray[np.int64]:
        """Training image, row and column of every bank row, [M, 3], on the CPU for look-ups."""
        origin: NDArray[np.int64] = self.bank.origin.cpu().numpy()
        return origin

    @classmethod
    def restore(
        cls, scorer: Scorer, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any], device: torch.device
    ) -> FittedState:
        """Return the member that a model file holds.

        Parameters
        ----------
        scorer
            Not fitted.
        tensors, manifest
            Those of `tensors` and `manifest`, among others.
        device
            Device of the memory bank.
        """
        levels = manifest.get("levels")
        bank = MemoryBank(
            tensors["bank.vectors"],
            tensors["bank.origin"],
            manifest["patches_seen"],
            tensors.get("bank.images"),
            None if levels is None else tuple(levels),
        ).to(device)
        state = {
            name.removeprefix(_SCORER): tensor.to(device)
            for name, tensor in tensors.items()
            if name.startswith(_SCORER)
        }
        scorer.restore(bank, state)
        return cls(
            scorer=scorer,
            bank=bank,
            radius_curve=[(rows, radius) for rows, radius in manifest["radius_curve"]],
            radius_is_exact=manifest.get("radius_is_exact", True),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors for a model file."""
        descriptors = {} if self.bank.descriptors is None else {"bank.images": self.bank.descriptors}
        scorer = {f"{_SCORER}{name}": tensor for name, tensor in self.scorer.state().items()}
        return {"bank.vectors": self.bank.vectors, "bank.origin": self.bank.origin, **descriptors, **scorer}

    def manifest(self) -> dict[str, Any]:
        """Return the rest for the manifest of a model file, as JSON-like data."""
        return {
            "patches_seen": self.bank.seen,
            "levels": self.bank.levels,
            "covering_radius": self.covering_radius,
            "radius_curve": [list(point) for point in self.radius_curve],
            "radius_is_exact": self.radius_is_exact,
        }
