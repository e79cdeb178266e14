"""How much memory a fit will take, and whether it is there: told before the work, not by the system killing it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch

from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.kernels import device as devices

COPIES = 2.3
"""Peak memory of a fit in units of the features: themselves, what screens them, the bank and working tiles."""


ORIGIN = 48
"""Bytes that a row takes beside its values: where it comes from, int64 [3], and a copy of that while rows move."""
SLACK = 1.1
"""What a process takes of a budget that its allocator does not hand back at once, as a factor."""
SMALLEST_BANK = 0.01
"""Fraction of the patches that a bank within a budget must have room for: the smallest of the paper's."""
BANK = Fraction(3, 5)
"""Share of the rows within a budget that the bank may have; the others are for patches to come. At the end there are
the bank, a copy of its distinct rows for the scorer, codes of these, and the bytes of the file: 3.3 times the bank."""


@dataclass(frozen=True)
class Share:
    """What a memory budget leaves to a fit.

    Parameters
    ----------
    budget
        Bytes.
    rows
        How many patches, the bank's rows among them, are in memory at most.
    bank
        How many rows the bank has at most.
    patches
        How many patches there will be in all, if no image is left out.
    all
        Bytes that a fit takes that keeps all of them.
    """

    budget: int
    rows: int
    bank: int
    patches: int
    all: float


def check(images: int, patches: int, dims: int, device: torch.device, size: int = 4, *, rows: int = 0) -> float:
    """Return how many bytes a fit takes at most; refuse one that cannot fit into the memory of `device`.

    Parameters
    ----------
    images
        How many training images.
    patches, dims
        Patches of each, and values of a patch.
    device
        Where the fit is to work.
    size
        Bytes of a value as it is kept; whatever is made of it may take float32's.
    rows
        Rows of a bank that are held beside.

    Raises
    ------
    PatchcoreError
        With what it takes, what there is, and the ways to need less.
    """
    needed = (images * patches + rows) * _row(dims, size)
    free = devices.available(device)
    if free is not None and needed > free:
        raise PatchcoreError(
            f"{images} images make {images * patches:,} patches of {dims} values: about {needed / 1e9:.1f} GB are "
            f"needed and {free / 1e9:.1f} GB are free; take fewer images, raise aggregator.stride, "
            "lower preprocessing.size, or choose a backbone with fewer channels"
        )
    return needed


def share(
    budget: int,
    images: int,
    patches: int,
    dims: int,
    device: torch.device,
    size: int = 4,
    *,
    batch: int,
    fixed: int = 0,
) -> Share | None:
    """Return what a budget leaves to a fit; None if all patches fit into it.

    Parameters
    ----------
    budget
        Bytes for all that grows with the number of images.
    images, patches, dims, device, size
        As in `check`.
    batch
        How many images come at a time.
    fixed
        Bytes that are kept of all images in any case.

    Raises
    ------
    PatchcoreError
        If there is not so much memory; or if a batch and a bank of `SMALLEST_BANK` do not fit into it, with what would.
    """
    row, total = SLACK * (_row(dims, size) + ORIGIN), images * patches
    every = total * _row(dims, size) + fixed
    free = devices.available(device)
    if free is not None and min(budget, every) > free:
        raise PatchcoreError(
            f"the memory budget is {text(budget)}, and {text(free)} are free; lower the budget, or close other programs"
        )
    if every <= budget:
        return None
    rows, incoming, useful = int((budget - fixed) / row), batch * patches, math.ceil(SMALLEST_BANK * total)
    bank = min(int(BANK * rows), rows - incoming)
    if bank < useful:
        smallest = max(useful + incoming, math.ceil(useful / BANK)) * row + fixed
        raise PatchcoreError(
            f"{images} images make {total:,} patches of {dims} values: a memory budget of {text(budget)} has no room "
            f"for a bank of {SMALLEST_BANK:.0%} of them and a batch of images; give at least {text(smallest)}, "
            "raise aggregator.stride, lower preprocessing.size, or choose a backbone with fewer channels"
        )
    return Share(budget, rows, bank, total, every)


def text(size: float) -> str:
    """Return a number of bytes for people, rounded up to what is written, so that it suffices where it is needed."""
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
    return f"{math.ceil(size / unit * 10) / 10:.1f} {name}"


def _row(dims: int, size: int) -> float:
    """Return the bytes that a patch takes in a fit, with all that is made of it."""
    return dims * (size + (COPIES - 1) * 4)
