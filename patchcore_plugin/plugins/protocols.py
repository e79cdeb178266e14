"""The contracts of the four roles, and the data that flows between them.

    images [B,3,H,W] -> Backbone -> [B,C_i,h_i,w_i] -> Aggregator -> Patches
    Patches -> Sampler (fit only) -> MemoryBank -> Scorer.fit;  Patches -> Scorer -> Scores

Every tensor of one call lives on one device; components compute there and change no input in place.
This module imports no torch, so that plugins may import it at the top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from patchcore_plugin.errors import TensorError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Patches:
    """Patch vectors of a batch of images.

    Parameters
    ----------
    grid
        Patch vectors by position, [B, h, w, D], floating point.
    descriptors
        A descriptor of each whole image, [B, G], for methods that use one.
    levels
        How many of the D values come from each feature map, in their order, for methods that treat maps apart.
    """

    grid: Tensor
    descriptors: Tensor | None = None
    levels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _expect("Patches.grid", self.grid, "[B, h, w, D]", ndim=4)
        if self.descriptors is not None:
            _expect("Patches.descriptors", self.descriptors, "[B, G]", ndim=2)
        _check_levels("Patches", self.levels, self.grid.shape[-1])


@dataclass(frozen=True)
class MemoryBank:
    """The normal patches that a scorer compares with.

    Parameters
    ----------
    vectors
        Patch vectors, [M, D], floating point.
    origin
        Where each comes from: training image, row, column of its grid; int64 [M, 3].
    seen
        Number of patches that the bank stands for (the sampler's input); M if not given.
    descriptors
        Descriptors of all training images, [P, G], whichever of their patches stay; None if the aggregator has none.
    levels
        As in `Patches`.
    """

    vectors: Tensor
    origin: Tensor
    seen: int | None = None
    descriptors: Tensor | None = None
    levels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _expect("MemoryBank.vectors", self.vectors, "[M, D]", ndim=2)
        _expect("MemoryBank.origin", self.origin, "[M, 3]", ndim=2)
        if tuple(self.origin.shape) != (len(self.vectors), 3):
            raise TensorError(
                f"MemoryBank.origin: expected shape [{len(self.vectors)}, 3], one row per vector, "
                f"got {list(self.origin.shape)}"
            )
        if self.descriptors is not None:
            _expect("MemoryBank.descriptors", self.descriptors, "[P, G]", ndim=2)
        _check_levels("MemoryBank", self.levels, self.vectors.shape[1])
        if self.seen is None:
            object.__setattr__(self, "seen", len(self.vectors))

    def to(self, device: torch.device | str) -> MemoryBank:
        """Return the same bank on `device`."""
        descriptors = None if self.descriptors is None else self.descriptors.to(device)
        return MemoryBank(self.vectors.to(device), self.origin.to(device), self.seen, descriptors, self.levels)


@dataclass(frozen=True)
class Reduction:
    """What a sampler is told of vectors that are not simply the patches of some images.

    Parameters
    ----------
    rows
        How many of the vectors, the first ones, are the rows of a bank; new patches follow. 0 if all are new.
    seen
        How many patches all of them stand for, the rows of the bank for more than they are: a fraction is of this.
    limit
        How many vectors may stay at most; None for as many as the options say.
    """

    rows: int
    seen: int
    limit: int | None = None


@dataclass(frozen=True)
class Scores:
    """How far each image, and each of its patches, is from normal.

    Parameters
    ----------
    image
        One score per image, [B], float32; larger is more anomalous.
    map
        One score per patch, [B, h, w], float32; None for methods that judge whole images only.
    nearest
        Row of the bank nearest to each patch, [B, h, w], int64; None where there is no such row.
    """

    image: Tensor
    map: Tensor | None = None
    nearest: Tensor | None = None

    def __post_init__(self) -> None:
        _expect("Scores.image", self.image, "[B]", ndim=1)
        for name in ("map", "nearest"):
            tensor = getattr(self, name)
            if tensor is not None:
                _expect(f"Scores.{name}", tensor, "[B, h, w]", ndim=3)


@runtime_checkable
class Backbone(Protocol):
    """A frozen feature extractor."""

    mean: tuple[float, float, float]
    """Channel means (RGB, images in 0..1) that the network's input is normalised with."""
    std: tuple[float, float, float]
    """Channel standard deviations, likewise."""

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Return feature maps [B, C_i, h_i, w_i], finest first, of normalised images [B, 3, H, W].

        A backbone whose option ``layers`` chooses maps by name may have an attribute ``layers``, the names of those it
        returns, in order: members of an ensemble that differ in that option alone then share it.
        """
        ...

    def to(self, device: torch.device | str) -> Backbone:
        """Move the weights to `device` and return the backbone."""
        ...

    def weight_hash(self) -> str:
        """Return a hex digest that is equal exactly for equal weights (see `hash_weights`)."""
        ...


@runtime_checkable
class Aggregator(Protocol):
    """Turns feature maps into locally aware patch vectors."""

    def __call__(self, maps: Sequence[Tensor]) -> Patches:
        """Return patches on the grid of ``maps[0]`` (the finest)."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Chooses which patches stay in the memory bank."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return int64 indices [M] of the rows of `vectors` [N, D] that stay, in selection order.

        A sampler that knows how well they cover the rest may leave a float64 tensor [M] in an
        attribute ``radii_``: after each pick, the largest distance from any row to its nearest pick.
        One that always keeps every row says so by an attribute ``keeps_all`` that is true.

        One that can choose from a bank and new patches, so that a model gets more images or a fit stays within its
        memory, has an attribute ``reduction``, None or a `Reduction`, which is set before a call and holds for it. It
        keeps a fraction of ``seen`` then, and no more rows than ``limit``.
        """
        ...


@runtime_checkable
class Scorer(Protocol):
    """Measures how far patches are from the bank.

    A fitted scorer whose models ``patchcore export`` is to export has a method ``export_module()`` as well. It returns
    the same computation as a ``torch.nn.Module``, called with `Patches` and returning `Scores`: operations
    that torch.export can follow for any number of images, with all tensors that it needs registered as buffers.
    """

    def fit(self, bank: MemoryBank) -> None:
        """Learn what is normal."""
        ...

    def __call__(self, patches: Patches) -> Scores:
        """Score patches; `fit` or `restore` came before."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """Return what `fit` computed beyond the bank itself, to be saved beside it (often nothing)."""
        ...

    def restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        """Become what `fit(bank)` and then `state()` described, without computing it again."""
        ...


@runtime_checkable
class StreamingScorer(Scorer, Protocol):
    """A scorer that can also learn from patches as they come, so that a fit need not hold those of all images.

    It is used so where the sampler keeps every patch (``keeps_all``). There is no bank then: `restore` gets one without
    rows. What it learns must be what `fit` would learn from the bank of the same patches, up to rounding.
    """

    def update(self, patches: Patches) -> None:
        """Learn from the patches of some more images; what `__call__` returns does not change yet."""
        ...

    def finish(self) -> None:
        """Score from now on by everything that was learned; `update` may go on afterwards."""
        ...


def hash_weights(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, dtypes, shapes and bytes, whatever their order."""
    import hashlib

    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _expect(what: str, tensor: Tensor, shape: str, *, ndim: int) -> None:
    if tensor.ndim != ndim:
        raise TensorError(f"{what}: expected shape {shape}, got {list(tensor.shape)}")


def _check_levels(what: str, levels: tuple[int, ...] | None, dims: int) -> None:
    if levels is not None and sum(levels) != dims:
        raise TensorError(f"{what}.levels: expected counts that add up to {dims} values, got {list(levels)}")
