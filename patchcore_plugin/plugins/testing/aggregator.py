"""Checks of what an aggregator does."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from patchcore_plugin.plugins.protocols import Patches

from . import common
from .subject import Subject
from .tensors import changes_at_the_lower_left, describe, is_finite, seeded

SHAPES = ((12, 9, 14), (20, 5, 7), (24, 3, 4))
"""Channels, height and width of the maps of one image, finest first."""


def example(it: Subject) -> list[Tensor]:
    """Return two feature maps of three images."""
    return [seeded(3, *shape, seed=number, device=it.device) for number, shape in enumerate(SHAPES[:2])]


def run(it: Subject, made: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the grid of patches, and the descriptors of whole images if there are any."""
    patches = made(tensors)
    it.expect(isinstance(patches, Patches), "Patches", describe(patches), "return Patches(grid=...)")
    batch, _, height, width = tensors[0].shape
    is_finite(it, "Patches.grid", patches.grid, "[B, h, w, D]", (batch, None, None, None))
    it.expect(
        patches.grid.dtype == torch.float32, "Patches.grid in float32", describe(patches.grid), "convert it by .float()"
    )
    _, rows, columns, _ = patches.grid.shape
    steps = range(1, max(height, width) + 1)
    it.expect(
        any(rows in (height // s, -(-height // s)) and columns in (width // s, -(-width // s)) for s in steps),
        f"patches on the grid of the first map, {height} x {width}, or on every s-th of its positions",
        f"{rows} x {columns}",
        "bring the other maps to the first one's grid, and order the values [B, h, w, D]",
    )
    if patches.descriptors is None:
        return [patches.grid]
    is_finite(it, "Patches.descriptors", patches.descriptors, "[B, G]", (batch, None))
    return [patches.grid, patches.descriptors]


def image(tensors: Sequence[Tensor], number: int) -> list[Tensor]:
    """Return the maps of one image."""
    return [each[number, None] for each in tensors]


def patches_have_the_right_form(it: Subject) -> None:
    """Return finite float32 Patches on the grid of the first map, or on every s-th of its positions."""
    run(it, it.shared, example(it))


def patches_are_in_their_place(it: Subject) -> None:
    """Keep patches the right way round: they change most where the maps do."""
    maps = example(it)
    changed = [each.clone() for each in maps]
    for each in changed:
        each[:, :, -1, 0] += 10
    before, after = (run(it, it.shared, each)[0].permute(0, 3, 1, 2) for each in (maps, changed))
    it.expect(
        changes_at_the_lower_left(before, after),
        "patches to change at the lower left, where the maps do",
        "that they change more at the upper right",
        "permute [B, D, h, w] to [B, h, w, D] rather than reshape it",
    )


def levels_tell_maps_apart(it: Subject) -> None:
    """Let `levels`, where they are given, say which values come from the first map, from the second, and so on."""
    maps = example(it)
    patches = it.shared(maps)
    levels = patches.levels
    if levels is None:
        return
    it.expect(len(levels) <= len(maps), f"at most {len(maps)} levels, one for each map", list(levels), "leave None")
    for number, count in enumerate(levels):
        changed = [
            each + 10 * (place == number) * seeded(*each.shape, seed=2, device=it.device)
            for place, each in enumerate(maps)
        ]
        differs = (it.shared(changed).grid != patches.grid).any(dim=(0, 1, 2)).nonzero().flatten().tolist()
        first = sum(levels[:number])
        own = range(first, first + count)
        it.expect(
            all(place in own for place in differs) and bool(differs) == bool(count),
            f"map {number} to change values {list(own)} only, as levels {list(levels)} say",
            f"that it changes {differs}",
            "count the values of each map in their order, or leave None where maps are mixed",
        )


def any_number_of_maps_works(it: Subject) -> None:
    """Take one map, two, and three."""
    for count in range(1, len(SHAPES) + 1):
        maps = [seeded(2, *shape, seed=number, device=it.device) for number, shape in enumerate(SHAPES[:count])]
        run(it, it.shared, maps)


def maps_of_one_position_work(it: Subject) -> None:
    """Take maps of 1 x 1 positions, which a small image leaves."""
    run(it, it.shared, [seeded(2, channels, 1, 1, device=it.device) for channels, _, _ in SHAPES[:2]])


def no_maps_are_refused(it: Subject) -> None:
    """Refuse an empty list of maps with a PatchcoreError."""
    it.refuses("an empty list of maps", functools.partial(it.shared, []))


CHECKS = (
    *common.CHECKS,
    common.images_are_independent,
    common.works_at_its_lower_limits,
    patches_have_the_right_form,
    patches_are_in_their_place,
    levels_tell_maps_apart,
    any_number_of_maps_works,
    maps_of_one_position_work,
    no_maps_are_refused,
)
