"""One member of a detector: the components of a method, and their fitted state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from patchcore_plugin.errors import TensorError
from patchcore_plugin.plugins.protocols import MemoryBank

from .normalisation import ScoreScale
from .pipeline import Pipeline
from .recipes import Recipe
from .scores import ImageScores, score_patches
from .state import FittedState


@dataclass(frozen=True, kw_only=True)
class Member:
    """One method of a detector.

    Parameters
    ----------
    pipeline
        Its components.
    state
        None before the fit.
    scale
        Brings its scores to the scale of the other members.

    Examples
    --------
    >>> import numpy as np
    >>> import patchcore_plugin as pp
    >>> changes = {"backbone": {"name": "resnet18", "weights": "random"}, "preprocessing": {"size": (32, 32)}}
    >>> detector = pp.Detector.from_recipe("patchcore", **changes)
    >>> member = detector.fit(list(np.zeros((4, 32, 32, 3), dtype=np.uint8))).members[0]
    >>> member.recipe.name, member.bank.vectors.ndim
    ('patchcore', 2)
    """

    pipeline: Pipeline
    state: FittedState | None = None
    scale: ScoreScale = field(default_factory=ScoreScale)

    @property
    def recipe(self) -> Recipe:
        """The recipe with this member only."""
        return self.pipeline.recipe

    @property
    def fitted(self) -> FittedState:
        """The state.

        Raises
        ------
        TensorError
            If the member is not fitted.
        """
        if self.state is None:
            raise TensorError("the detector is not fitted; call fit or load first")
        return self.state

    @property
    def bank(self) -> MemoryBank:
        """The memory bank, on the device of the detector."""
        return self.fitted.bank

    @property
    def bank_rows(self) -> int:
        """Number of rows of the memory bank; 0 if the scorer was fitted batch by batch."""
        return len(self.bank.vectors)

    @property
    def covering_radius(self) -> float | None:
        """Largest distance from any training patch to the memory bank, or a bound of it; None if unknown."""
        return None if self.state is None else self.state.covering_radius

    @property
    def radius_is_exact(self) -> bool:
        """Whether `covering_radius` is exact; after an update, or a fit within a memory budget, it is a bound."""
        return self.state is None or self.state.radius_is_exact

    @property
    def radius_curve(self) -> list[tuple[int, float]]:
        """Covering radius of smaller memory banks too, as (rows, radius), if the sampler reports it."""
        return [] if self.state is None else self.state.radius_curve

    def score(self, images: Tensor) -> list[ImageScores]:
        """Return the scores of prepared images [B, 3, h, w], on the member's own scale."""
        return score_patches(self.fitted.scorer, self.pipeline.patches(images))

    def require_fit(self) -> None:
        """Raise TensorError if the member is not fitted."""
        _ = self.fitted

    def manifest(self, seed: int, images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the member's part of a manifest, as JSON-like data.

        Parameters
        ----------
        seed
            Seed of the detector.
        images
            Path, height and width of each training image.
        """
        return {**self.pipeline.describe(), "seed": seed, "photos": list(images), **self.fitted.manifest()}
