"""The memory that a fit needs, checked before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.kernels import device as devices
from patchcore_plugin.plugins.protocols import Patches

COPIES = 2.3
"""Peak memory of a fit in units of the patches: themselves, their codes for screening, the bank and working tiles."""
ORIGIN = 48
"""Bytes per row in addition to its values: its origin, int64 [3], and a copy of that while rows move."""
SLACK = 1.1
"""Memory that a process uses of a budget, as a factor: allocators do not return everything at once."""
SMALLEST_BANK = 0.01
"""Smallest size of a memory bank within a budget, as a fraction of the patches: the smallest ratio of the paper."""
BANK = Fraction(3, 5)
"""Share of the rows within a budget that the bank may have; the rest is for new patches. At the end of a fit the bank
itself, the scorer's copy of its distinct rows, their codes and the bytes of the file take 3.3 times the bank."""
ADVICE = "use fewer images, raise aggregator.stride, lower preprocessing.size, or choose a backbone with fewer channels"


@dataclass(frozen=True)
class BudgetPlan:
    """How a memory budget is used.

    Parameters
    ----------
    budget
        Bytes.
    rows
        Maximum number of rows in memory, those of the bank included.
    bank
        Maximum number of rows of the bank.
    patches
        Number of patches of all images.
    full
        Bytes that a fit would take that keeps all patches.
    """

    budget: int
    rows: int
    bank: int
    patches: int
    full: float


def fit_bytes(images: int, like: Patches, bank_rows: int = 0) -> float:
    """Return the bytes that a fit takes at most.

    Parameters
    ----------
    images
        Number of training images.
    like
        Patches of some of them.
    bank_rows
        Rows of a memory bank that is held in addition.
    """
    return (images * patches_per_image(like) + bank_rows) * _row_bytes(like)


def require_memory(images: int, like: Patches, bank_rows: int = 0) -> float:
    """Return the bytes that a fit takes at most; see `fit_bytes`.

    Parameters
    ----------
    images
        Number of images.
    like
        Patches of one or more of the images.
    bank_rows
        Rows of the memory bank that is extended; 0 for a fit from scratch.

    Raises
    ------
    PatchcoreError
        If they are not free on the device of the patches.
    """
    needed = fit_bytes(images, like, bank_rows)
    free = devices.available(like.grid.device)
    if needed > free:
        raise PatchcoreError(
            f"{images} images have {images * patches_per_image(like):,} patches of {like.grid.shape[-1]} values: about "
            f"{needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; {ADVICE}"
        )
    return needed


def require_memory_of_members(images: int, samples: Sequence[tuple[str, Patches]]) -> None:
    """Check the memory of several members before the first is fitted.

    They are fitted one after the other, so the largest need counts, not the sum.

    Parameters
    ----------
    images
        Number of training images.
    samples
        Name of each member that keeps its patches, and patches of some images.

    Raises
    ------
    PatchcoreError
        If there is not enough memory for one of them; names the member.
    """
    for name, like in samples:
        try:
            require_memory(images, like)
        except PatchcoreError as error:
            raise PatchcoreError(f"{name}: {error}") from None


def plan_budget(budget: int, images: int, like: Patches, batch: int) -> BudgetPlan | None:
    """Return how a fit stays within a memory budget; None if all patches fit into it.

    Parameters
    ----------
    budget
        Bytes for everything that grows with the number of images.
    images
        Number of training images.
    like
        Patches of one image.
    batch
        Number of images that are added at a time.

    Raises
    ------
    PatchcoreError
        If the budget exceeds the free memory, or is too small for a batch and a bank of `SMALLEST_BANK`; says how much
        is enough.
    """
    descriptors = like.descriptors
    fixed = 0 if descriptors is None else images * descriptors.shape[1] * descriptors.element_size()
    total = images * patches_per_image(like)
    full = fit_bytes(images, like) + fixed
    free = devices.available(like.grid.device)
    if min(budget, full) > free:
        raise PatchcoreError(
            f"the memory budget is {size_text(budget)}, and {size_text(free)} are free; lower the budget, or close "
            "other programs"
        )
    if full <= budget:
        return None
    row = SLACK * (_row_bytes(like) + ORIGIN)
    rows, incoming = int((budget - fixed) / row), batch * patches_per_image(like)
    smallest = math.ceil(SMALLEST_BANK * total)
    bank = min(int(BANK * rows), rows - incoming)
    if bank < smallest:
        enough = max(smallest + incoming, math.ceil(smallest / BANK)) * row + fixed
        raise PatchcoreError(
            f"{images} images have {total:,} patches of {like.grid.shape[-1]} values: a memory budget of "
            f"{size_text(budget)} is too small for a bank of {SMALLEST_BANK:.0%} of them and a batch of images; pass "
            f"at least {size_text(enough)}, or {ADVICE.removeprefix('use fewer images, ')}"
        )
    return BudgetPlan(budget, rows, bank, total, full)


def patches_per_image(like: Patches) -> int:
    """Return the number of patches of an image."""
    return like.grid.shape[1] * like.grid.shape[2]


def size_text(size: float) -> str:
    """Return a number of bytes as text, rounded up.

    Examples
    --------
    >>> size_text(1_210_000_000)
    '1.3 GB'
    """
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
    return f"{math.ceil(size / unit * 10) / 10:.1f} {name}"


def _row_bytes(like: Patches) -> float:
    """Return the bytes that a patch takes in a fit; copies are float32 for any dtype of the patches."""
    return like.grid.shape[-1] * (like.grid.element_size() + (COPIES - 1) * 4)
