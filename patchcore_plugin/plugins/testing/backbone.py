"""Checks of backbones."""

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
from .check import Subject
from .tensors import are_close, are_identical, describe, expect_finite, random_tensor

SIZES = ((64, 64), (224, 224), (256, 256), (384, 384), (518, 518))
"""Heights and widths to try; all checks use the first that the backbone accepts."""
OTHER_SIZES = ((72, 96), (97, 65))


def example(subject: Subject) -> list[Tensor]:
    """Return three normalised images of a size that the backbone accepts."""
    return [random_tensor(3, 3, *_size(subject), device=subject.device)]


def run(subject: Subject, component: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the feature maps of images."""
    (images,) = tensors
    maps = component(images)
    subject.expect(
        isinstance(maps, list | tuple) and len(maps) > 0,
        "a list of feature maps",
        "none" if isinstance(maps, list | tuple) else describe(maps),
        "return a list, even for a single map",
    )
    for number, features in enumerate(maps):
        expect_finite(subject, f"feature map {number}", features, "[B, C, h, w]", (len(images), None, None, None))
    return [features.detach() for features in maps]


def image(tensors: Sequence[Tensor], number: int) -> list[Tensor]:
    """Return one image."""
    return [tensors[0][number, None]]


@functools.lru_cache
def _size(subject: Subject) -> tuple[int, int]:
    refusal = ""
    for size in SIZES:
        try:
            subject.instance(random_tensor(1, 3, *size, device=subject.device))
        except PatchcoreError as error:
            refusal = str(error)
        else:
            return size
    raise subject.failure(
        f"a backbone that accepts images of one of the sizes {', '.join(f'{h} x {w}' for h, w in SIZES)}",
        f"a refusal of all: {refusal}",
        "accept one of them, or pass options to the check with which it does",
    )


def maps_have_the_right_form(subject: Subject) -> None:
    """Return a list of floating, finite maps [B, C, h, w] on the device of the images."""
    run(subject, subject.instance, example(subject))


def maps_are_finest_first(subject: Subject) -> None:
    """Return the finest map first."""
    sizes = [tuple(features.shape[2:]) for features in run(subject, subject.instance, example(subject))]
    ordered = all(a[0] >= b[0] and a[1] >= b[1] for a, b in itertools.pairwise(sizes))
    subject.expect(ordered, "maps finest first", f"sizes {sizes}", "return them in the order of the network")


def maps_keep_orientation(subject: Subject) -> None:
    """Keep the orientation of images: an image higher than wide gives no map wider than high."""
    images = random_tensor(1, 3, 128, 64, device=subject.device)
    try:
        maps = run(subject, subject.instance, [images])
    except PatchcoreError:
        return  # it accepts other sizes only
    for number, features in enumerate(maps):
        height, width = features.shape[2:]
        subject.expect(
            height >= width,
            f"feature map {number} of an image of 128 x 64 to be no wider than high",
            f"{height} x {width}",
            "keep the order of height and width",
        )


def maps_have_no_gradients(subject: Subject) -> None:
    """Return maps without gradients, which would fill the memory with graphs."""
    maps = subject.instance(*example(subject))
    numbers = [number for number, features in enumerate(maps) if features.requires_grad]
    subject.expect(not numbers, "maps without gradients", f"requires_grad in map(s) {numbers}", "use torch.no_grad()")


def normalisation_is_valid(subject: Subject) -> None:
    """Have three finite numbers each in `mean` and `std`, those of `std` above 0."""
    for name, least in (("mean", -math.inf), ("std", 0.0)):
        values = getattr(subject.instance, name)
        valid = (
            isinstance(values, list | tuple)
            and len(values) == 3
            and all(isinstance(value, float | int) and math.isfinite(value) and value > least for value in values)
        )
        kind = "finite numbers" if name == "mean" else "finite numbers above 0"
        subject.expect(valid, f"{name} to be three {kind}", repr(values), "set a tuple of values for R, G and B")


def weight_hash_is_stable(subject: Subject) -> None:
    """Return a hex digest from `weight_hash`, the same for two backbones with equal options."""
    first, second = subject.instance.weight_hash(), subject.create().weight_hash()
    remedy = "use patchcore_plugin.hash_weights"
    hexadecimal = isinstance(first, str) and bool(re.fullmatch(r"[0-9a-f]{32,}", first))
    subject.expect(hexadecimal, "weight_hash() to be a hex digest of 32 digits or more", repr(first), remedy)
    subject.expect(first == second, "one hash for equal options", f"{first[:8]}... and {second[:8]}...", remedy)


def moving_keeps_maps(subject: Subject) -> None:
    """Return a backbone with the same maps from `to`."""
    before = run(subject, subject.instance, example(subject))
    after = run(subject, subject.instance.to(subject.device), example(subject))
    equal = are_identical(before, after) if subject.device == "cpu" else are_close(before, after)
    subject.expect(equal, "equal maps after to()", "different ones", "move all weights and change nothing else")


def other_sizes_work(subject: Subject) -> None:
    """Accept images of oblong and odd sizes, or refuse them with a PatchcoreError."""
    for height, width in OTHER_SIZES:
        images = random_tensor(1, 3, height, width, device=subject.device)
        try:
            run(subject, subject.instance, [images])
        except PatchcoreError:
            continue


def wrong_images_are_refused(subject: Subject) -> None:
    """Refuse images without a batch dimension, or with 1 or 4 channels, with a PatchcoreError."""
    (images,) = example(subject)
    height, width = images.shape[2:]
    for shape in ((3, height, width), (2, 1, height, width), (2, 4, height, width)):
        wrong = torch.zeros(shape, device=subject.device)
        subject.expect_refusal(f"images of shape {list(shape)}", functools.partial(subject.instance, wrong))


CHECKS = (
    *common.CHECKS,
    common.images_are_independent,
    maps_have_the_right_form,
    maps_are_finest_first,
    maps_keep_orientation,
    maps_have_no_gradients,
    normalisation_is_valid,
    weight_hash_is_stable,
    moving_keeps_maps,
    other_sizes_work,
    wrong_images_are_refused,
)
