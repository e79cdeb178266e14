"""Result of a strategy, and the interface of strategies."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

from patchcore_plugin.models.scores import ImageScores
from patchcore_plugin.models.state import FittedState

from .batches import FeatureBatch


class FitResult(NamedTuple):
    """Result of a strategy.

    Parameters
    ----------
    state
        The fitted member.
    scores
        Scores of training images by a model that was not fitted on them, by number of the image; may be empty.
    """

    state: FittedState
    scores: dict[int, ImageScores]


class FitStrategy(Protocol):
    """Fits one member: `add` is called with every batch, then `finish` once."""

    @property
    def scoring(self) -> str:
        """How training images are scored by a model that was not fitted on them, for messages."""
        ...

    def held_out(self, seed: int) -> Collection[int]:
        """Return the indices of the images to read last, which are scored before they are added."""
        ...

    def scored_images(self) -> int:
        """Return the number of images that will be scored, if all can be read."""
        ...

    def add(self, batch: FeatureBatch) -> None:
        """Take the patches of a batch with at least one readable image."""
        ...

    def finish(self) -> FitResult:
        """Return the fitted member.

        Raises
        ------
        ImageError
            If no image could be read.
        """
        ...

    def describe(self, seconds: float) -> str:
        """Return a line about memory and time, after the first batch; reading the rest takes `seconds`."""
        ...
