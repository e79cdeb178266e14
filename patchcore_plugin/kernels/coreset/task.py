"""The arguments of one selection, which all backends of the coreset take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Task:
    """One selection among points [N, D].

    Parameters
    ----------
    count
        How many rows to select at most, 1 to N.
    start
        The first row.
    radius
        Stop as soon as no row is farther than this from its nearest pick; None to select `count`.
    earlier
        float64 [N]: squared distance of each row to an earlier selection; None if there is none.
    progress
        Called after every round with the number of picks so far and `count`.
    """

    count: int
    start: int = 0
    radius: float | None = None
    earlier: Tensor | None = None
    progress: Callable[[int, int], None] | None = None

    def report(self, picks: int) -> None:
        """Call `progress`, if there is one."""
        if self.progress is not None:
            self.progress(picks, self.count)
