"""Merge and reduce: a bank and the patches that came after it become one bank, which stands for all of them.

Reducing the union of a reduced bank and of new patches gives a bank again, so that one function serves a model that
gets more images, and a fit whose patches are never all in memory.

Most patches are gone, so how well the result covers all that were ever seen can only be bounded. Each of the old ones
was within r of a row of the old bank, r its covering radius or a bound of that. Let m be the largest distance from a
row of the old bank to the new one: by the triangle inequality each of the old patches is within r + m of the new bank.
A new patch is still here, and its distance known; let d be the largest. So all are within max(r + m, d). Where all rows
of the old bank stay, as `greedy-coreset` lets them, m is 0, and the bound does not grow with the number of reductions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from patchcore_plugin.errors import OptionError, TensorError
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.models.pipeline import Composition
from patchcore_plugin.plugins.protocols import MemoryBank, Patches, Reduction, Sampler


class Reduced(NamedTuple):
    """What a sampler chose from a union: rows of it, int64 [M], and a bound of the covering radius."""

    chosen: Tensor
    radius: float


def require_reducible(parts: Composition, doing: str) -> None:
    """Refuse a recipe whose sampler cannot choose from a bank and new patches.

    Raises
    ------
    OptionError
        With what cannot be done, `doing`.
    """
    sampler = parts.sampler()
    if not (getattr(sampler, "keeps_all", False) or hasattr(sampler, "reduction")):
        raise OptionError(
            f"sampler {parts.recipe.sampler.name!r} cannot choose from a bank and new patches (it has no attribute "
            f"'reduction'), so {doing}; fit on all images at once, or take --sampler greedy-coreset"
        )


def reduced(
    parts: Composition,
    sampler: Sampler,
    union: MemoryBank,
    rows: int,
    *,
    radius: float = 0.0,
    limit: int | None = None,
) -> Reduced:
    """Let a sampler choose from a bank and the patches that came after it.

    Parameters
    ----------
    parts
        Whose sampler it is.
    sampler
        A fresh one, for which `require_reducible` was called.
    union
        The bank's rows and then the patches; ``seen`` counts all patches that it stands for.
    rows
        How many of its rows are the bank's, 0 for a first reduction.
    radius
        The bank's covering radius, or a bound of it.
    limit
        How many rows may stay at most.

    Raises
    ------
    TensorError
        If the sampler returns no such rows, or more than `limit`.
    """
    vectors = union.vectors
    if getattr(sampler, "keeps_all", False):
        return Reduced(parts.select(sampler, vectors), 0.0)
    assert union.seen is not None
    index = parts.select(sampler, vectors, Reduction(rows=rows, seen=union.seen, limit=limit))
    radii = getattr(sampler, "radii_", None)
    stays = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
    stays[index] = True
    gone = (~stays[:rows]).nonzero().flatten()
    if radii is not None and not len(gone):
        return Reduced(index, max(radius, float(radii[-1])))
    search = NearestRows(vectors[index])
    moved = radius + float(search(vectors[gone])[0].max()) if len(gone) else radius
    if radii is not None:
        return Reduced(index, max(moved, float(radii[-1])))
    new = vectors[rows:][~stays[rows:]]
    return Reduced(index, max(moved, float(search(new)[0].max())) if len(new) else moved)


class Union:
    """A bank and the patches that come after it, in one tensor that is allocated once.

    Parameters
    ----------
    rows
        How many rows there are at most, the bank's included.
    like
        Patches like those to come.
    bank
        The bank to begin with; none by default.
    images
        How many images the bank is of: the number of the next one.
    radius
        The bank's covering radius, or a bound of it.
    """

    def __init__(
        self, rows: int, like: Patches, *, bank: MemoryBank | None = None, images: int = 0, radius: float = 0.0
    ) -> None:
        _, self._height, self._width, dims = like.grid.shape
        if bank is not None and bank.vectors.shape[1] != dims:
            raise TensorError(f"expected patches of {bank.vectors.shape[1]} values like the bank's, got {dims}")
        self._vectors = like.grid.new_empty(rows, dims)
        self._origin = torch.empty(rows, 3, dtype=torch.int64, device=like.grid.device)
        self._descriptors: list[Tensor] = []
        self._levels = like.levels
        self._images = images
        self._count = self._rows = self._seen = 0
        self.radius = radius
        """The covering radius over all patches that were reduced, or a bound of it."""
        if bank is not None:
            assert bank.seen is not None
            self._count = self._rows = len(bank.vectors)
            self._seen = bank.seen
            self._vectors[: self._rows], self._origin[: self._rows] = bank.vectors, bank.origin
            self._descriptors = [] if bank.descriptors is None else [bank.descriptors]

    @property
    def room(self) -> int:
        """How many more images there is room for."""
        return (len(self._vectors) - self._count) // (self._height * self._width)

    @property
    def images(self) -> int:
        """How many images it is of, those of the bank that it began with included."""
        return self._images

    @property
    def seen(self) -> int:
        """How many patches came in all."""
        return self._seen

    def add(self, patches: Patches) -> None:
        """Merge: put the patches of a batch of images behind what is there; there must be room."""
        images, height, width, _ = patches.grid.shape
        if (height, width) != (self._height, self._width):
            raise TensorError(
                f"expected patches on a grid of {self._height} x {self._width}, like those before, got {height} x "
                f"{width}; give images that are prepared alike"
            )
        new = slice(self._count, self._count + images * height * width)
        self._vectors[new] = patches.grid.flatten(0, 2)
        axes = [torch.arange(size, device=self._origin.device) for size in (images, height, width)]
        self._origin[new] = torch.cartesian_prod(*axes).view(-1, 3)
        self._origin[new, 0] += self._images
        if patches.descriptors is not None:
            self._descriptors.append(patches.descriptors)
        self._images += images
        self._seen += new.stop - new.start
        self._count = new.stop

    def reduce(
        self, parts: Composition, progress: Callable[[int, int], object] | None = None, limit: int | None = None
    ) -> None:
        """Reduce: let a fresh sampler choose what stays, which is the bank then; nothing, if no patch is new."""
        if self._count == self._rows:
            return
        index, self.radius = reduced(
            parts, parts.sampler(progress), self.bank(), self._rows, radius=self.radius, limit=limit
        )
        kept = self._rows if torch.equal(index[: self._rows], torch.arange(self._rows, device=index.device)) else 0
        # Only what moves is copied; rows that stay in front, nearly all, are where they are to be.
        self._vectors[kept : len(index)] = self._vectors[index[kept:]]
        self._origin[kept : len(index)] = self._origin[index[kept:]]
        self._count = self._rows = len(index)

    def bank(self) -> MemoryBank:
        """Return all rows that are here now, not copied."""
        descriptors = torch.cat(self._descriptors) if self._descriptors else None
        rows = slice(self._count)
        return MemoryBank(self._vectors[rows], self._origin[rows], self._seen, descriptors, self._levels)
