r"""Bounds on distances from products of 8-bit integers, which processors multiply fastest, and exactly.

A point x is replaced by the nearest point of a grid, m + h c with a step h and a code c of whole numbers
between -127 and 127. In units of h its error e = ||(x - m) / h - c|| is computed, not estimated, for every
point. Between two grid points

    ||c_i - c_j||^2 = ||c_i||^2 + ||c_j||^2 - 2 c_i.c_j

is a sum of integers and has no rounding at all, so by the triangle inequality

    ||c_i - c_j|| - e_i - e_j  <=  ||x_i - x_j|| / h  <=  ||c_i - c_j|| + e_i + e_j.

No assumption on the data is needed: a point beyond the grid is clipped, and its large error keeps it from
being dismissed. What remains is the rounding of e itself and of a comparison: errors are computed in float64
from factors that are rounded once each, and increased by `ROUND_UP` of themselves and `TINY`, which is thousands
of times what float32 can lose in the few steps from there to a comparison.

The sum of D products, each at most 255 x 127 where codes are shifted to be unsigned, fits 32 bits up to `MAX_DIMS`.
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
"""Errors beyond this are set to it: such points are never dismissed, and float32 can hold the square."""
_CLIPS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
"""Largest values that a grid may reach, in root mean squares, to choose from."""
_SAMPLE = 512


def codable(points: Tensor) -> bool:
    """Whether points [n, D] can be rounded to a grid: a centre in float32 must exist, and products fit 32 bits."""
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
    """Where points are rounded to; see the module.

    Parameters
    ----------
    points
        [n, D], any floating dtype, finite. So that a few far points spoil nothing, the centre is, of evenly spread
        ones, the median in each dimension, and the step, of a few, the one that serves 95 % of them best.
    levels
        Largest code, at most 127.
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
        """Return the codes of `points` [n, D]."""
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
