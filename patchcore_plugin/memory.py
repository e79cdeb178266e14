"""How much memory a fit will take, and whether it is there: told before the work, not by the system killing it."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from .errors import PatchcoreError

COPIES = 2.3
"""Peak memory of a fit in units of the features: themselves, what screens them, the bank and working tiles."""


def available(device: torch.device) -> int | None:
    """Return the bytes that can be had on `device`; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def check(photos: int, patches: int, dims: int, device: torch.device, size: int = 4) -> float:
    """Return how many bytes a fit takes at most; refuse one that cannot fit into the memory of `device`.

    Parameters
    ----------
    photos
        How many training photos.
    patches, dims
        Patches of each, and values of a patch.
    device
        Where the fit is to work.
    size
        Bytes of a value as it is kept; whatever is made of it may take float32's.

    Raises
    ------
    PatchcoreError
        With what it takes, what there is, and the ways to need less.
    """
    needed = photos * patches * dims * (size + (COPIES - 1) * 4)
    free = available(device)
    if free is not None and needed > free:
        raise PatchcoreError(
            f"{photos} photos make {photos * patches:,} patches of {dims} values: about {needed / 1e9:.1f} GB are "
            f"needed and {free / 1e9:.1f} GB are free; take fewer photos, raise aggregator.stride, "
            "lower preprocessing.size, or choose a backbone with fewer channels"
        )
    return needed
