r"""Lower bounds on squared distances from one float32 matrix product, with a proven margin.

A matrix product rules out nearly all distances quickly; `squared_distances`, in float64, decides the rest. For
decisions to be exact, the product must give true *lower* bounds. With u = 2^-24 and D dimensions:

1. The points are moved to a common centre and scaled by a power of two, y = s (x - m). The float32
   copy c of y, rounded from float64 or computed in float32 from a float32 centre, has
   ||c - y|| <= 2u ||c||. Write r = ||c|| and R = r_i + r_j, so that
   ||c_i - c_j|| <= R. Then  | ||y_i - y_j||^2 - ||c_i - c_j||^2 | <= 4uR^2 + (2uR)^2 < 5uR^2.
2. n = r^2 is computed in float64 and rounded once: an error below u (n_i + n_j) <= uR^2.
3. n_j - 2 c_i.c_j is one accumulation of D + 1 terms, in any order, fused or not. The magnitudes of the terms
   sum to at most n_j + 2 r_i r_j <= R^2, so the error is at most gamma R^2 with
   gamma = (D + 2) u / (1 - (D + 2) u)   (Higham, Accuracy and Stability, section 3.1).
   If torch is set to round the factors of float32 products first (TF32, bfloat16) by a relative t each,
   2 r_i r_j (2t + t^2) <= (t + t^2/2) R^2 is added.
4. Adding n_i, comparing with a bound rounded to float32, and the rounding of the float64
   differences themselves cost less than 6u R^2 together (D < 2^27).

Therefore |computed - true| <= kappa R^2 with kappa = gamma + t + t^2/2 + 12u. Since R^2 <= 2 (n_i + n_j),
subtracting 2 kappa n from each squared norm makes every entry a lower bound at no cost: the margin of a far point
does not widen that of any other. Adding 5 kappa (n_i + n_j) to such a lower bound makes an upper bound, with one kappa
to spare for rounding it to float32.

Products too small for float32 are covered by the constant `TINY`: after scaling the largest norm is in
[1, 2), and each of the O(D) underflows costs at most 2^-126.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from patchcore_plugin.errors import TensorError

UNIT_ROUNDOFF = 2.0**-24
TINY = 2.0**-100


def not_finite() -> TensorError:
    """Return the error for points with NaN, infinity, or squared distances beyond float64."""
    return TensorError("distances need finite values below 1e150; check the features for NaN and infinity")


def chunk_rows(points: Tensor) -> int:
    """Return how many rows of points [n, D] to copy to float64 at a time; on a CPU, the copies stay in the cache."""
    return max(1, (1 << 17 if points.device.type == "cpu" else 1 << 24) // points.shape[1])


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return ||a - b||^2 of rows, in float64 by direct differences. All decisions of the kernels rest on these.

    The squares are added in one fixed order, by halves: the last n // 2 of n terms are added to the first n // 2,
    repeatedly. Every processor, compiler and accelerator therefore computes the same bits.

    Parameters
    ----------
    a, b
        Rows [..., D], any floating dtype, broadcast against each other.

    Returns
    -------
    Tensor
        float64 [...].

    Examples
    --------
    >>> float(squared_distances(torch.tensor([0.0, 3.0]), torch.tensor([4.0, 0.0])))
    25.0
    """
    squares = (a.double() - b.double()).square_()
    terms = squares.shape[-1]
    while terms > 1:
        half = terms // 2
        squares[..., :half] += squares[..., terms - half : terms]
        terms -= half
    return squares[..., 0].clone()  # a view would keep all squares for as long as the sums


def squared_distances_of_pairs(a: Tensor, b: Tensor, rows_a: Tensor, rows_b: Tensor) -> Tensor:
    """Return squared distances of pairs of rows, float64 [P], in bounded memory.

    Parameters
    ----------
    a, b
        Rows, [n_a, D] and [n_b, D].
    rows_a, rows_b
        The rows of each pair, int64 [P].
    """
    out = torch.empty(len(rows_a), dtype=torch.float64, device=a.device)
    step = chunk_rows(a)
    for low in range(0, len(rows_a), step):
        part = slice(low, low + step)
        out[part] = squared_distances(a[rows_a[part]], b[rows_b[part]])
    return out


def root(squares: Tensor) -> Tensor:
    """Return square roots of float64 values, correctly rounded; torch on a CPU is sometimes one bit off."""
    return torch.from_numpy(np.sqrt(squares.numpy())) if squares.device.type == "cpu" else squares.sqrt()


@dataclass(frozen=True)
class ScreenedPoints:
    """Points ready for screening: float32 copies [n, D], squared norms [n] and lowered squared norms [n]."""

    points: Tensor
    norms: Tensor
    lowered: Tensor

    def __getitem__(self, rows: Tensor | slice) -> ScreenedPoints:
        return ScreenedPoints(self.points[rows], self.norms[rows], self.lowered[rows])


class Screening:
    """Points of which any rows can be screened on demand, so that no copy of all points is held.

    Parameters
    ----------
    frame
        `Frame(points)`.
    points
        [n, D], any floating dtype.
    """

    def __init__(self, frame: Frame, points: Tensor) -> None:
        self._frame = frame
        self._points = points
        norms = torch.empty(len(points), dtype=torch.float64, device=points.device)
        step = chunk_rows(points)
        for part, norm in zip(points.split(step), norms.split(step), strict=True):
            norm[:] = frame.to_float32(part).double().square_().sum(dim=1)
        self._norms, self._lowered = norms.float(), frame.lower_norms(norms)

    def __getitem__(self, rows: Tensor | slice) -> ScreenedPoints:
        return ScreenedPoints(self._frame.to_float32(self._points[rows]), self._norms[rows], self._lowered[rows])


class Frame:
    """The centre and scale in which points are screened; see the module for the proof.

    The centre is the mean of the points. The scale is the power of two that brings the largest distance from the
    centre into [1, 2).

    Parameters
    ----------
    points
        [n, D], any floating dtype, finite.

    Raises
    ------
    TensorError
        For values that are not finite, or distances whose squares exceed float64.
    """

    def __init__(self, points: Tensor) -> None:
        parts = points.split(chunk_rows(points))
        total = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
        for part in parts:
            total += part.double().sum(dim=0)
        self.centre = total / len(points)
        norms = torch.empty(len(points), dtype=torch.float64, device=points.device)
        for part, norm in zip(parts, norms.split(chunk_rows(points)), strict=True):
            norm[:] = squared_distances(part, self.centre)
        largest = float(norms.max())
        if not math.isfinite(largest):
            raise not_finite()
        self.scale = 2.0 ** -(math.frexp(math.sqrt(largest))[1] - 1) if largest > 0 else 1.0
        # In this range float32 neither overflows nor underflows, so a difference from a float32 centre is rounded
        # once, like one computed in float64.
        self._single = points.dtype != torch.float64 and 2.0**-60 < largest < 2.0**60
        if self._single:
            self.centre = self.centre.float().double()
        self.rounding = product_rounding()
        self.kappa = _kappa(points.shape[1], self.rounding)

    def screen(self, points: Tensor) -> ScreenedPoints:
        """Return `points` [n, D] ready for `lower_bounds`."""
        copy = torch.empty(points.shape, dtype=torch.float32, device=points.device)
        norms = torch.empty(len(points), dtype=torch.float64, device=points.device)
        step = chunk_rows(points)
        for part, out, norm in zip(points.split(step), copy.split(step), norms.split(step), strict=True):
            out[:] = (part.double() - self.centre) * self.scale
            norm[:] = out.double().square_().sum(dim=1)
        return ScreenedPoints(copy, norms.float(), self.lower_norms(norms))

    def lower_norms(self, norms: Tensor) -> Tensor:
        """Return squared norms, float64 [n], less their share of the error of a product, as float32."""
        return ((1 - 2 * self.kappa) * norms - TINY).float()

    def to_float32(self, points: Tensor) -> Tensor:
        """Return centred and scaled float32 copies of rows of the points that the frame was made for."""
        if self._single:
            return (points.float() - self.centre.float()).mul_(self.scale)
        return ((points.double() - self.centre) * self.scale).float()

    def slack(self, norms_a: Tensor, norms_b: Tensor) -> Tensor:
        """Return what to add to a lower bound of a squared distance to get an upper bound, float64.

        Parameters
        ----------
        norms_a, norms_b
            Squared norms of both points, in the frame; broadcast against each other.
        """
        return (norms_a.double() + norms_b) * (5 * self.kappa) + 4 * TINY


def lower_bounds(a: ScreenedPoints, b: ScreenedPoints) -> Tensor:
    """Return lower bounds of scaled squared distances *minus* ``a.lowered[:, None]``, [n_a, n_b] float32.

    The term of `a` changes neither a minimum over `b` nor a comparison with a bound for each row. Adding it would
    read the matrix once more.

    Parameters
    ----------
    a, b
        Points of one frame, n_a and n_b of them.
    """
    with torch.autocast(a.points.device.type, enabled=False):  # autocast would round the factors to 8 bits
        return torch.addmm(b.lowered, a.points, b.points.T, alpha=-2)


def product_rounding() -> float:
    """Return the relative error t of the factors of float32 products under the current settings of torch."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:
        # Set through torch.backends, which this function cannot report; assume the coarsest setting.
        precision = "medium"
    return {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-8}[precision]


def _kappa(dims: int, rounding: float) -> float:
    terms = (dims + 2) * UNIT_ROUNDOFF
    return terms / (1 - terms) + rounding + rounding**2 / 2 + 12 * UNIT_ROUNDOFF
