"""The exact greedy selection among a few points, which ends each round of `lazy`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcore_plugin.kernels.screening import TINY, Frame, squared_distances

_UNIT_ROUNDOFF = 2.0**-53


class PlayOut:
    """Greedy selection among points whose exact distances to earlier picks are given.

    One float64 product bounds all mutual distances and decides nearly every pick. A point that comes first without an
    exact value is settled by direct differences and put back.

    Parameters
    ----------
    points
        [n, D], the players.
    bound
        float64 [n]: their squared distances to the nearest earlier pick, scaled.
    frame
        The centre and scale of the selection.
    """

    def __init__(self, points: Tensor, bound: Tensor, frame: Frame) -> None:
        self._points = points
        self._scale = frame.scale**2
        self._low, self._slack = _mutual_lower_bounds(points, frame)
        self._bound: NDArray[np.float64] = bound.cpu().numpy().copy()
        self._floor = self._bound.copy()
        self._rival = np.full(len(points), np.inf)
        self._nearest = np.full(len(points), -1)  # -1: the nearest pick precedes this play-out
        self._before = self._bound.copy()
        self._picks: list[int] = []

    def farthest(self) -> tuple[int, float]:
        """Return the position and exact value of the first player in order."""
        while True:
            i = int(self._bound.argmax())
            value = float(self._bound[i])
            if self._floor[i] >= value and self._rival[i] >= value:
                return i, value
            self._settle(i)

    def take(self, i: int) -> None:
        """Make player `i` a pick, and update the bounds of all others."""
        self._picks.append(i)
        low = self._low[i]
        self._bound[i] = self._floor[i] = -1.0
        near = (low <= self._bound).nonzero()[0]
        low = low[near]
        high = low + self._slack[near]
        nearer = high < self._bound[near]
        rival = np.where(nearer, self._floor[near], low)
        self._rival[near] = np.minimum(self._rival[near], rival)
        near = near[nearer]
        self._bound[near] = high[nearer]
        self._floor[near] = low[nearer]
        self._nearest[near] = len(self._picks) - 1

    def result(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return bound, floor and rival, float64 [n], and the nearest pick of this play-out, int64 [n]; -1: none."""
        device = self._points.device
        bound, floor, rival, nearest = (
            torch.from_numpy(values).to(device) for values in (self._bound, self._floor, self._rival, self._nearest)
        )
        return bound, floor, rival, nearest

    def _settle(self, i: int) -> None:
        picks = np.array(self._picks)
        near = (self._low[i, picks] <= self._bound[i]).nonzero()[0]
        others = self._points[torch.from_numpy(picks[near]).to(self._points.device)]
        exact = squared_distances(others, self._points[i]).cpu().numpy() * self._scale
        which = int(exact.argmin())
        value = float(exact[which])
        if value < self._before[i]:
            self._nearest[i] = near[which]
        else:
            value = float(self._before[i])
            self._nearest[i] = -1
        self._bound[i] = self._floor[i] = self._rival[i] = value


def _mutual_lower_bounds(points: Tensor, frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return lower bounds of scaled squared distances [n, n], and what to add to a column to get upper bounds [n].

    The proof is that of `screening` with float64 in place of float32.
    """
    centred = (points.double() - frame.centre).mul_(frame.scale)
    norms = centred.square().sum(dim=1)
    terms = (points.shape[1] + 16) * _UNIT_ROUNDOFF
    kappa = terms / (1 - terms)
    lowered = (1 - 2 * kappa) * norms - TINY**2
    low = torch.addmm(lowered, centred, centred.T, alpha=-2).add_(lowered[:, None])
    slack = 5 * kappa * (norms + norms.max()) + 4 * TINY**2
    return low.cpu().numpy(), slack.cpu().numpy()
