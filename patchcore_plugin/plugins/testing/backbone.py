"""Checks of what a backbone does."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from patchcore_plugin.errors import PatchcoreError

from . import common
from .subject import Subject
from .tensors import alike, describe, identical, is_finite, seeded

SIZES = ((64, 64), (224, 224), (256, 256), (384, 384), (518, 518))
"""Heights and widths that are tried; the first that the backbone does not refuse serves all checks."""
OTHER_SIZES = ((72, 96), (97, 65))


def example(it: Subject) -> list[Tensor]:
    """Return three normalised images of a size that the backbone takes."""
    return [seeded(3, 3, *_size(it), device=it.device)]


def run(it: Subject, made: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the feature maps of images."""
    (images,) = tensors
    maps = made(images)
    it.expect(
        isinstance(maps, list | tuple) and len(maps) > 0,
        "a list of feature maps",
        "none" if isinstance(maps, list | tuple) else describe(maps),
        "return a list, even of a single map",
    )
    for number, each in enumerate(maps):
        is_finite(it, f"feature map {number}", each, "[B, C, h, w]", (len(images), None, None, None))
    return [each.detach() for each in maps]


def image(tensors: Sequence[Tensor], number: int) -> list[Tensor]:
    """Return one image."""
    return [tensors[0][number, None]]


@functools.lru_cache
def _size(it: Subject) -> tuple[int, int]:
    refusal = ""
    for size in SIZES:
        try:
            it.shared(seeded(1, 3, *size, device=it.device))
        except PatchcoreError as error:
            refusal = str(error)
        else:
            return size
    raise it.failure(
        f"a backbone that takes images of one of the sizes {', '.join(f'{h} x {w}' for h, w in SIZES)}",
        f"this refusal of each: {refusal}",
        "take one of them, or give the check options with which it does",
    )


def maps_have_the_right_form(it: Subject) -> None:
    """Return a list of floating, finite maps [B, C, h, w] on the images' device."""
    run(it, it.shared, example(it))


def maps_are_finest_first(it: Subject) -> None:
    """Return the finest map first."""
    sizes = [tuple(each.shape[2:]) for each in run(it, it.shared, example(it))]
    ordered = all(a[0] >= b[0] and a[1] >= b[1] for a, b in itertools.pairwise(sizes))
    it.expect(ordered, "maps finest first", f"sizes {sizes}", "return them in the order of the network")


def maps_are_in_their_place(it: Subject) -> None:
    """Keep maps the right way round: an image that is higher than wide gives no map that is wider than high."""
    images = seeded(1, 3, 128, 64, device=it.device)
    try:
        maps = run(it, it.shared, [images])
    except PatchcoreError:
        return  # it takes other sizes only
    for number, each in enumerate(maps):
        height, width = each.shape[2:]
        it.expect(
            height >= width,
            f"feature map {number} of an image of 128 x 64 to be no wider than high",
            f"{height} x {width}",
            "keep height and width in the order of the image's",
        )


def no_gradients_are_kept(it: Subject) -> None:
    """Return maps that need no gradient, so that no graph fills the memory."""
    maps = it.shared(*example(it))
    kept = [number for number, each in enumerate(maps) if each.requires_grad]
    it.expect(not kept, "maps without gradients", f"requires_grad in map(s) {kept}", "compute under torch.no_grad()")


def normalisation_can_be_used(it: Subject) -> None:
    """Have three finite numbers each in `mean` and `std`, those of `std` above 0."""
    for name, least in (("mean", -math.inf), ("std", 0.0)):
        values = getattr(it.shared, name)
        sound = (
            isinstance(values, list | tuple)
            and len(values) == 3
            and all(isinstance(each, float | int) and math.isfinite(each) and each > least for each in values)
        )
        kind = "finite numbers" if name == "mean" else "finite numbers above 0"
        it.expect(sound, f"{name} to be three {kind}", repr(values), "give the values of R, G and B as a tuple")


def weights_are_told_by_a_hash(it: Subject) -> None:
    """Return a hex digest from `weight_hash`, the same for two backbones that are made alike."""
    first, second = it.shared.weight_hash(), it.make().weight_hash()
    remedy = "use patchcore_plugin.hash_weights"
    hexadecimal = isinstance(first, str) and bool(re.fullmatch(r"[0-9a-f]{32,}", first))
    it.expect(hexadecimal, "weight_hash() to be a hex digest of 32 digits or more", repr(first), remedy)
    it.expect(first == second, "one hash for two that are made alike", f"{first[:8]}... and {second[:8]}...", remedy)


def moving_keeps_it_whole(it: Subject) -> None:
    """Return from `to` a backbone that gives the same maps."""
    before = run(it, it.shared, example(it))
    after = run(it, it.shared.to(it.device), example(it))
    same = identical(before, after) if it.device == "cpu" else alike(before, after)
    it.expect(same, "equal maps after to()", "different ones", "move all weights and change nothing else")


def other_sizes_work(it: Subject) -> None:
    """Take images of oblong and odd sizes, or refuse them with a PatchcoreError."""
    for height, width in OTHER_SIZES:
        images = seeded(1, 3, height, width, device=it.device)
        try:
            run(it, it.shared, [images])
        except PatchcoreError:
            continue


def wrong_images_are_refused(it: Subject) -> None:
    """Refuse images without a batch dimension, or of 1 or 4 channels, with a PatchcoreError."""
    (images,) = example(it)
    height, width = images.shape[2:]
    for shape in ((3, height, width), (2, 1, height, width), (2, 4, height, width)):
        wrong = torch.zeros(shape, device=it.device)
        it.refuses(f"images of shape {list(shape)}", functools.partial(it.shared, wrong))


CHECKS = (
    *common.CHECKS,
    common.images_are_independent,
    maps_have_the_right_form,
    maps_are_finest_first,
    maps_are_in_their_place,
    no_gradients_are_kept,
    normalisation_can_be_used,
    weights_are_told_by_a_hash,
    moving_keeps_it_whole,
    other_sizes_work,
    wrong_images_are_refused,
)
