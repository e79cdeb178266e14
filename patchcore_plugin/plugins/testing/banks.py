"""The bank that a scorer is fitted on: patches by position, or whole images for one that takes nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.plugins.protocols import MemoryBank, Patches

from .subject import Subject
from .tensors import seeded

IMAGES, HEIGHT, WIDTH, DIMS, DESCRIPTOR = 6, 4, 5, 8, 12


def example_bank(it: Subject) -> tuple[Tensor, Tensor]:
    """Return vectors [M, D] and origin [M, 3] of the patches of all images, or of the images as 1 x 1 patches.

    The latter where the scorer refuses the former, and not the latter, by a PatchcoreError.
    """
    by_position, whole = (_bank(it, sides) for sides in ((HEIGHT, WIDTH), (1, 1)))
    return whole if not _takes(it, *by_position) and _takes(it, *whole) else by_position


def made_bank(vectors: Tensor, origin: Tensor) -> MemoryBank:
    """Return a bank that has all that an aggregator may give: descriptors of all images, `descriptors`, too."""
    return MemoryBank(vectors, origin, descriptors=descriptors(vectors.device.type))


def descriptors(device: str) -> Tensor:
    """Return the descriptors of all images, [P, G]."""
    return seeded(IMAGES, DESCRIPTOR, seed=1, device=device)


def by_image(vectors: Tensor) -> Tensor:
    """Return the vectors of `example_bank` as a grid [P, h, w, D]."""
    return vectors.view(IMAGES, *((HEIGHT, WIDTH) if len(vectors) > IMAGES else (1, 1)), DIMS)


def _bank(it: Subject, sides: tuple[int, int]) -> tuple[Tensor, Tensor]:
    places = [torch.arange(length) for length in (IMAGES, *sides)]
    vectors = seeded(IMAGES, *sides, DIMS, device=it.device).flatten(0, 2)
    return vectors, torch.cartesian_prod(*places).to(it.device)


def _takes(it: Subject, vectors: Tensor, origin: Tensor) -> bool:
    made = it.make()
    try:
        made.fit(made_bank(vectors, origin))
        made(Patches(by_image(vectors), descriptors(it.device)))
    except PatchcoreError:
        return False
    except Exception:  # which the checks will find again, and report
        return True
    return True
