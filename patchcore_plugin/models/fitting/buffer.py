"""Patch embeddings of many images in one tensor, which is allocated once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from patchcore_plugin.errors import TensorError
from patchcore_plugin.plugins.protocols import MemoryBank, Patches


class PatchBuffer:
    """Rows of a memory bank, if there is one, followed by the patches of images with equal grids.

    Parameters
    ----------
    rows
        Capacity in rows, those of the bank included.
    like
        Patches with the grid, values, dtype and device of those to come.
    bank
        The memory bank to start from; none by default.
    images
        Number of images that the bank was made of; new images are counted from there.

    Raises
    ------
    TensorError
        If the vectors of the bank have another length.
    """

    def __init__(self, rows: int, like: Patches, *, bank: MemoryBank | None = None, images: int = 0) -> None:
        _, self._height, self._width, dims = like.grid.shape
        if bank is not None and bank.vectors.shape[1] != dims:
            raise TensorError(f"expected patches of {bank.vectors.shape[1]} values, as in the bank, got {dims}")
        self._vectors = like.grid.new_empty(rows, dims)
        self._origin = torch.empty(rows, 3, dtype=torch.int64, device=like.grid.device)
        self._descriptors: list[Tensor] = []
        self._levels = like.levels
        self.images = images
        """Number of images, those of the bank included."""
        self.bank_rows = 0 if bank is None else len(bank.vectors)
        """Number of rows that are the memory bank; new patches follow."""
        self.seen = 0 if bank is None else bank.seen or 0
        """Number of patches that the rows represent."""
        self.rows = self.bank_rows
        """Number of rows in use."""
        if bank is not None:
            self._vectors[: self.rows], self._origin[: self.rows] = bank.vectors, bank.origin
            if bank.descriptors is not None:
                self._descriptors = list(bank.descriptors.split(1))

    @property
    def patches_per_image(self) -> int:
        """Number of patches of an image."""
        return self._height * self._width

    @property
    def free_images(self) -> int:
        """Number of images that still fit in."""
        return (len(self._vectors) - self.rows) // self.patches_per_image

    def add(self, patches: Patches) -> None:
        """Append the patches of a batch of images. The buffer must have capacity for them.

        Raises
        ------
        TensorError
            If their grid differs from that of earlier images.
        """
        images, height, width, _ = patches.grid.shape
        if (height, width) != (self._height, self._width):
            raise TensorError(
                f"expected patches on a grid of {self._height} x {self._width} as for earlier images, got {height} "
                f"x {width}; prepare all images in the same way"
            )
        new = slice(self.rows, self.rows + images * self.patches_per_image)
        self._vectors[new] = patches.grid.flatten(0, 2)
        axes = [torch.arange(size, device=self._origin.device) for size in (images, height, width)]
        self._origin[new] = torch.cartesian_prod(*axes).view(-1, 3)
        self._origin[new, 0] += self.images
        if patches.descriptors is not None:
            self._descriptors += patches.descriptors.split(1)
        self.images += images
        self.seen += new.stop - new.start
        self.rows = new.stop

    def vectors(self, images: int | None = None) -> Tensor:
        """Return the patch embeddings of the first images, or all rows, as a view [rows, D]."""
        return self._vectors[: self.rows if images is None else images * self.patches_per_image]

    def patches(self, first: int, count: int) -> Patches:
        """Return the patches of consecutive images, for a buffer that did not start from a memory bank.

        Parameters
        ----------
        first
            Position of the first image.
        count
            Number of images.
        """
        rows = self._vectors[first * self.patches_per_image : (first + count) * self.patches_per_image]
        descriptors = torch.cat(self._descriptors[first : first + count]) if self._descriptors else None
        return Patches(rows.view(count, self._height, self._width, -1), descriptors, self._levels)

    def swap(self, first: Sequence[int], second: Sequence[int]) -> None:
        """Exchange the patches and image descriptors of pairs of images.

        Parameters
        ----------
        first, second
            Positions of the images of each pair; of equal length.
        """
        images = self._vectors[: self.rows].unflatten(0, (-1, self.patches_per_image))
        # Pair by pair: a copy of all would be the largest allocation of a fit.
        for left, right in zip(first, second, strict=True):
            copy = images[left].clone()
            images[left] = images[right]
            images[right] = copy
            if self._descriptors:
                self._descriptors[left], self._descriptors[right] = self._descriptors[right], self._descriptors[left]

    def bank(self, index: Tensor | None = None, images: int | None = None) -> MemoryBank:
        """Return a memory bank of some rows.

        Parameters
        ----------
        index
            Rows of ``vectors(images)``, int64 [M]; all rows, as views, if None.
        images
            Number of images, from the first, that the bank knows; all if None.
        """
        vectors = self.vectors(images)
        descriptors = torch.cat(self._descriptors[:images]) if self._descriptors else None
        seen = self.seen if images is None else len(vectors)
        if index is None or _is_range(index, len(vectors)):
            return MemoryBank(vectors, self._origin[: len(vectors)], seen, descriptors, self._levels)
        return MemoryBank(vectors[index], self._origin[index], seen, descriptors, self._levels)

    def reduce(self, index: Tensor) -> None:
        """Keep only these rows, int64 [M], which are the memory bank from then on."""
        first = self.bank_rows if _is_range(index[: self.bank_rows], self.bank_rows) else 0
        # Rows that stay where they are, usually almost all, are not copied.
        self._vectors[first : len(index)] = self._vectors[index[first:]]
        self._origin[first : len(index)] = self._origin[index[first:]]
        self.rows = self.bank_rows = len(index)


def _is_range(index: Tensor, count: int) -> bool:
    """Return whether the index is 0, 1, ..., count - 1."""
    return len(index) == count and bool((index == torch.arange(count, device=index.device)).all())
