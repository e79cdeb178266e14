"""The buffer of patches: rows, origins, descriptors, and what stays after a reduction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.models.fitting.buffer import PatchBuffer


def draw(images: int, seed: int = 0, shape: tuple[int, int, int] = (2, 3, 4)) -> pp.Patches:
    """Return random patches with image descriptors of two values."""
    generator = torch.Generator().manual_seed(seed)
    grid, descriptors = (torch.randn(images, *size, generator=generator) for size in (shape, (2,)))
    return pp.Patches(grid, descriptors, levels=(1, 3))


def descriptors_of(bank: pp.MemoryBank) -> Tensor:
    assert bank.descriptors is not None
    return bank.descriptors


def test_patches_are_rows_with_their_origin() -> None:
    first, second = draw(2), draw(1, seed=1)
    buffer = PatchBuffer(24, first)
    buffer.add(first)
    assert (buffer.images, buffer.rows, buffer.free_images, buffer.seen) == (2, 12, 2, 12)
    buffer.add(second)
    bank = buffer.bank()
    assert torch.equal(bank.vectors, torch.cat([first.grid, second.grid]).flatten(0, 2))
    assert torch.equal(descriptors_of(bank), torch.cat([draw(2).descriptors, draw(1, seed=1).descriptors]))  # type: ignore[list-item]
    assert bank.origin[[0, 4, 11, 12]].tolist() == [[0, 0, 0], [0, 1, 1], [1, 1, 2], [2, 0, 0]]
    assert (bank.seen, bank.levels) == (18, (1, 3))
    assert torch.equal(buffer.patches(1, 2).grid, torch.cat([first.grid, second.grid])[1:])
    assert buffer.vectors(1).shape == (6, 4)


def test_a_bank_of_all_rows_is_a_view_and_one_of_some_a_copy() -> None:
    buffer = PatchBuffer(12, draw(2))
    buffer.add(draw(2))
    assert buffer.bank().vectors.data_ptr() == buffer.vectors().data_ptr()
    assert buffer.bank(torch.arange(12)).vectors.data_ptr() == buffer.vectors().data_ptr()
    assert buffer.bank(torch.arange(6), images=1).vectors.data_ptr() == buffer.vectors().data_ptr()
    some = buffer.bank(torch.tensor([5, 2]), images=1)
    assert some.vectors.data_ptr() != buffer.vectors().data_ptr()
    assert torch.equal(some.vectors, buffer.vectors()[[5, 2]])
    assert some.origin.tolist() == [[0, 1, 2], [0, 0, 2]]
    assert (some.seen, len(descriptors_of(some))) == (6, 1)


def test_images_are_swapped_with_their_descriptors() -> None:
    patches = draw(3)
    buffer = PatchBuffer(18, patches)
    buffer.add(patches)
    buffer.swap([0], [2])
    assert torch.equal(buffer.bank().vectors, patches.grid[[2, 1, 0]].flatten(0, 2))
    assert patches.descriptors is not None
    assert torch.equal(descriptors_of(buffer.bank()), patches.descriptors[[2, 1, 0]])
    assert torch.equal(buffer.patches(2, 1).grid, patches.grid[:1])
    buffer.swap([0], [2])
    assert torch.equal(buffer.bank().vectors, patches.grid.flatten(0, 2))


def test_a_buffer_that_starts_from_a_bank() -> None:
    bank = pp.MemoryBank(torch.ones(5, 4), torch.full((5, 3), 7), seen=60, descriptors=torch.zeros(10, 2))
    buffer = PatchBuffer(17, draw(1), bank=bank, images=10)
    assert (buffer.rows, buffer.bank_rows, buffer.free_images, buffer.seen) == (5, 5, 2, 60)
    buffer.add(draw(2))
    assert buffer.free_images == 0
    assert buffer.bank().seen == 72
    assert buffer.bank().origin[5:, 0].unique().tolist() == [10, 11]
    assert len(descriptors_of(buffer.bank())) == 12


@pytest.mark.parametrize("index", [[0, 1, 2, 3, 9, 15], [0, 2, 9]])
def test_a_reduction_keeps_the_chosen_rows(index: list[int]) -> None:
    """Whether the rows of the bank stay in place, or some of them leave."""
    bank = pp.MemoryBank(torch.ones(4, 4), torch.full((4, 3), 7), seen=40)
    buffer = PatchBuffer(18, draw(1), bank=bank, images=8)
    buffer.add(draw(2))
    vectors, origin = buffer.bank().vectors[index].clone(), buffer.bank().origin[index].clone()
    buffer.reduce(torch.tensor(index))
    assert torch.equal(buffer.bank().vectors, vectors)
    assert torch.equal(buffer.bank().origin, origin)
    assert (buffer.rows, buffer.bank_rows, buffer.seen, buffer.images) == (len(index), len(index), 52, 10)


def test_other_grids_and_vectors_are_refused() -> None:
    buffer = PatchBuffer(24, draw(1))
    with pytest.raises(pp.TensorError, match="grid of 2 x 3"):
        buffer.add(draw(1, shape=(3, 3, 4)))
    with pytest.raises(pp.TensorError, match="patches of 9 values"):
        PatchBuffer(24, draw(1), bank=pp.MemoryBank(torch.ones(1, 9), torch.zeros(1, 3, dtype=torch.int64)))
