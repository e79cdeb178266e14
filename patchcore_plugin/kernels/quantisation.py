r"""Bounds on distances from products of 8-bit integers, which are exact and faster than any other product.

A point x is replaced by the nearest point of a grid, m + h c, with a step h and a code c of integers between -127
and 127. Its error in units of h, e = ||(x - m) / h - c||, is computed, not estimated, for every point. Between two
grid points

    ||c_i - c_j||^2 = ||c_i||^2 + ||c_j||^2 - 2 c_i.c_j

is a sum of integers without any rounding, so the triangle inequality gives

    ||c_i - c_j|| - e_i - e_j  <=  ||x_i - x_j|| / h  <=  ||c_i - c_j|| + e_i + e_j.

Nothing is assumed about the data: a point beyond the grid is clipped, and its large error keeps it from being
dismissed. What remains is the rounding of e itself and of a comparison. Errors are computed in float64 from factors
that are rounded once each, and then increased by the factor `ROUND_UP` and by `TINY`, thousands of times what float32
can lose in the few steps from there to a comparison.

A sum of D products, each at most 255 x 127 for codes shifted to be unsigned, fits 32 bits for D up to `MAX_DIMS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .screening import chunk_rows, not_finite

LEVELS = 127
MAX_DIMS = 32768
ROUND_UP = 1 + 1e-5
TINY = 1e-5
FAR = 1e18
"""Largest error: points that far from their codes are never dismissed, and float32 can hold the square."""
_CLIPS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
"""Candidates for the largest value on the grid, in root mean squares."""
_SAMPLE = 512


def encodable(points: Tensor) -> bool:
    """Return whether points [n, D] have codes: their centre must be exact in float32, and products must fit 32 bits."""
    return points.dtype in (torch.float32, torch.float16, torch.bfloat16) and points.shape[1] <= MAX_DIMS


@dataclass(frozen=True)
class Codes:
    """Points on a grid: int8 codes [n, D], their squared norms, int32 [n], and error bounds, float32 [n]."""

    codes: Tensor
    norms: Tensor
    errors: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Codes:
        return Codes(self.codes[rows], self.norms[rows], self.errors[rows])


class Grid:
    """The grid to which points are rounded; see the module.

    The centre is the median of a sample in each dimension. The step is the one of a few that suits 95 % of the sample
    best. Both are robust to outliers.

    Parameters
    ----------
    points
        [n, D], any floating dtype, finite.
    levels
        Largest code, at most 127.

    Raises
    ------
    TensorError
        If the sample has values that are not finite.
    """

    def __init__(self, points: Tensor, levels: int = LEVELS) -> None:
        self.levels = levels
        sample = points[:: -(-len(points) // _SAMPLE)]
        # Rounded to float32, so that a float32 product can start from the same centre.
        self.centre = sample.float().median(dim=0).values.double()
        sample = sample.double() - self.centre
        spread = float(sample.square().mean(dim=1).median().sqrt())
        if not math.isfinite(spread) or not torch.isfinite(self.centre).all():
            raise not_finite()
        self.step = 1.0
        if spread > 0.0:
            steps = [spread * clip / levels for clip in _CLIPS]
            self.step = min(steps, key=lambda step: step * float(_round(sample / step, levels)[1].quantile(0.95)))

    def encode(self, points: Tensor) -> Codes:
        """Return the codes of points [n, D].

        Raises
        ------
        TensorError
            For values that are not finite.
        """
        device = points.device
        codes = torch.empty(points.shape, dtype=torch.int8, device=device)
        norms = torch.empty(len(points), dtype=torch.int32, device=device)
        errors = torch.empty(len(points), dtype=torch.float32, device=device)
        step = chunk_rows(points)
        for low in range(0, len(points), step):
            part = slice(low, low + step)
            code, error = _round((points[part].double() - self.centre) / self.step, self.levels)
            codes[part], norms[part] = code, code.square().sum(dim=1)
            errors[part] = error.mul_(ROUND_UP).add_(TINY).clamp_(max=FAR)
        if errors.isnan().any():
            raise not_finite()
        return Codes(codes, norms, errors)


def _round(scaled: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    code = scaled.round().clamp_(-levels, levels)
    error = (scaled - code).square_().sum(dim=1).sqrt_()
    return code, error.masked_fill_(error == torch.inf, torch.nan)
