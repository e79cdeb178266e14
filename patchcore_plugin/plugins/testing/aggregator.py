"""Checks of aggregators."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from patchcore_plugin.plugins.protocols import Patches

from . import common
from .check import Subject
from .tensors import changes_at_lower_left, describe, expect_finite, random_tensor

SHAPES = ((12, 9, 14), (20, 5, 7), (24, 3, 4))
"""Channels, height and width of the maps of one image, finest first."""


def example(subject: Subject) -> list[Tensor]:
    """Return two feature maps of three images."""
    return [random_tensor(3, *shape, seed=number, device=subject.device) for number, shape in enumerate(SHAPES[:2])]


def run(subject: Subject, component: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the grid of patches, and the image descriptors if there are any."""
    patches = component(tensors)
    subject.expect(isinstance(patches, Patches), "Patches", describe(patches), "return Patches(grid=...)")
    batch, _, height, width = tensors[0].shape
    expect_finite(subject, "Patches.grid", patches.grid, "[B, h, w, D]", (batch, None, None, None))
    subject.expect(
        patches.grid.dtype == torch.float32, "Patches.grid in float32", describe(patches.grid), "convert it by .float()"
    )
    _, rows, columns, _ = patches.grid.shape
    steps = range(1, max(height, width) + 1)
    subject.expect(
        any(rows in (height // s, -(-height // s)) and columns in (width // s, -(-width // s)) for s in steps),
        f"patches on the grid of the first map, {height} x {width}, or on every s-th of its positions",
        f"{rows} x {columns}",
        "resize the other maps to the grid of the first one, and return [B, h, w, D]",
    )
    if patches.descriptors is None:
        return [patches.grid]
    expect_finite(subject, "Patches.descriptors", patches.descriptors, "[B, G]", (batch, None))
    return [patches.grid, patches.descriptors]


def image(tensors: Sequence[Tensor], number: int) -> list[Tensor]:
    """Return the maps of one image."""
    return [features[number, None] for features in tensors]


def patches_have_the_right_form(subject: Subject) -> None:
    """Return finite float32 Patches on the grid of the first map, or on every s-th of its positions."""
    run(subject, subject.instance, example(subject))


def patches_keep_orientation(subject: Subject) -> None:
    """Keep the orientation of the maps: patches change most where the maps do."""
    maps = example(subject)
    changed = [features.clone() for features in maps]
    for features in changed:
        features[:, :, -1, 0] += 10
    before, after = (run(subject, subject.instance, batch)[0].permute(0, 3, 1, 2) for batch in (maps, changed))
    subject.expect(
        changes_at_lower_left(before, after),
        "patches to change at the lower left, where the maps change",
        "larger changes at the upper right",
        "permute [B, D, h, w] to [B, h, w, D] instead of reshaping it",
    )


def levels_match_maps(subject: Subject) -> None:
    """State in `levels`, unless None, how many values come from the first map, from the second, and so on."""
    maps = example(subject)
    patches = subject.instance(maps)
    levels = patches.levels
    if levels is None:
        return
    subject.expect(len(levels) <= len(maps), f"at most {len(maps)} levels, one per map", list(levels), "leave None")
    for number, count in enumerate(levels):
        changed = [
            features + 10 * (place == number) * random_tensor(*features.shape, seed=2, device=subject.device)
            for place, features in enumerate(maps)
        ]
        differs = (subject.instance(changed).grid != patches.grid).any(dim=(0, 1, 2)).nonzero().flatten().tolist()
        first = sum(levels[:number])
        own = range(first, first + count)
        subject.expect(
            all(place in own for place in differs) and bool(differs) == bool(count),
            f"map {number} to change values {list(own)} only, as levels {list(levels)} state",
            f"changes of {differs}",
            "count the values of each map in order, or leave None if maps are mixed",
        )


def any_number_of_maps_works(subject: Subject) -> None:
    """Accept one map, two, and three."""
    for count in range(1, len(SHAPES) + 1):
        shapes = enumerate(SHAPES[:count])
        maps = [random_tensor(2, *shape, seed=number, device=subject.device) for number, shape in shapes]
        run(subject, subject.instance, maps)


def maps_of_one_position_work(subject: Subject) -> None:
    """Accept maps of 1 x 1 positions, as small images have them."""
    maps = [random_tensor(2, channels, 1, 1, device=subject.device) for channels, _, _ in SHAPES[:2]]
    run(subject, subject.instance, maps)


def no_maps_are_refused(subject: Subject) -> None:
    """Refuse an empty list of maps with a PatchcoreError."""
    subject.expect_refusal("an empty list of maps", functools.partial(subject.instance, []))


CHECKS = (
    *common.CHECKS,
    common.images_are_independent,
    common.lower_limits_work,
    patches_have_the_right_form,
    patches_keep_orientation,
    levels_match_maps,
    any_number_of_maps_works,
    maps_of_one_position_work,
    no_maps_are_refused,
)
