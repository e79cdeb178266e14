"""Banks for the checks of scorers: patches by position, or whole images for scorers that accept nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.plugins.protocols import MemoryBank, Patches

from .check import Subject
from .tensors import random_tensor

IMAGES, HEIGHT, WIDTH, DIMS, DESCRIPTOR = 6, 4, 5, 8, 12


def example_bank(subject: Subject) -> tuple[Tensor, Tensor]:
    """Return vectors [M, D] and origin [M, 3] of patches by position, or of images as 1 x 1 patches.

    The latter if the scorer refuses the former with a PatchcoreError and accepts the latter.
    """
    by_position, whole = (_bank(subject, sides) for sides in ((HEIGHT, WIDTH), (1, 1)))
    return whole if not _accepts(subject, *by_position) and _accepts(subject, *whole) else by_position


def bank_of(vectors: Tensor, origin: Tensor) -> MemoryBank:
    """Return a bank with all optional content of an aggregator, including image descriptors.

    Parameters
    ----------
    vectors
        Patch embeddings, float32 [M, D].
    origin
        Training image, grid row and grid column of each vector, int64 [M, 3].
    """
    return MemoryBank(vectors, origin, descriptors=descriptors(vectors.device.type))


def descriptors(device: str) -> Tensor:
    """Return the descriptors of all images, [P, G]."""
    return random_tensor(IMAGES, DESCRIPTOR, seed=1, device=device)


def by_image(vectors: Tensor) -> Tensor:
    """Return the vectors of `example_bank` as a grid [P, h, w, D]."""
    return vectors.view(IMAGES, *((HEIGHT, WIDTH) if len(vectors) > IMAGES else (1, 1)), DIMS)


def _bank(subject: Subject, sides: tuple[int, int]) -> tuple[Tensor, Tensor]:
    places = [torch.arange(length) for length in (IMAGES, *sides)]
    vectors = random_tensor(IMAGES, *sides, DIMS, device=subject.device).flatten(0, 2)
    return vectors, torch.cartesian_prod(*places).to(subject.device)


def _accepts(subject: Subject, vectors: Tensor, origin: Tensor) -> bool:
    scorer = subject.create()
    try:
        scorer.fit(bank_of(vectors, origin))
        scorer(Patches(by_image(vectors), descriptors(subject.device)))
    except PatchcoreError:
        return False
    except Exception:  # the checks report it
        return True
    return True
