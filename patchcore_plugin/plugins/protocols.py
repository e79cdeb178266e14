"""The contracts of the four roles, and the data that flows between them.

    images [B,3,H,W] -> Backbone -> [B,C_i,h_i,w_i] -> Aggregator -> Patches
    Patches -> Sampler (fit only) -> MemoryBank -> Scorer.fit;  Patches -> Scorer -> Scores

All tensors of a call are on one device. Components compute there and modify no input in place.
This module does not import torch, so plugins may import it at the top.
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
    """Patch embeddings of a batch of images.

    Parameters
    ----------
    grid
        Patch embeddings by position, [B, h, w, D], floating point.
    descriptors
        Image descriptors, [B, G], for methods that use one for each image.
    levels
        How many of the D values come from each feature map, in order, for methods that treat maps separately.

    Raises
    ------
    TensorError
        If a tensor has the wrong number of dimensions, or `levels` do not add up to D.

    Examples
    --------
    >>> import torch
    >>> Patches(grid=torch.zeros(2, 28, 28, 1536)).grid.shape[-1]
    1536
    """

    grid: Tensor
    descriptors: Tensor | None = None
    levels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_dimensions("Patches.grid", self.grid, "[B, h, w, D]", ndim=4)
        if self.descriptors is not None:
            _check_dimensions("Patches.descriptors", self.descriptors, "[B, G]", ndim=2)
        _check_levels("Patches", self.levels, self.grid.shape[-1])


@dataclass(frozen=True)
class MemoryBank:
    """Normal patches that a scorer compares with.

    Parameters
    ----------
    vectors
        Patch embeddings, [M, D], floating point.
    origin
        Training image, grid row and grid column of each vector, int64 [M, 3].
    seen
        Number of patches that the bank represents (the input of the sampler); M if None.
    descriptors
        Image descriptors of all training images, [P, G]; None if the aggregator has none.
    levels
        How many of the D values come from each feature map, in order.

    Raises
    ------
    TensorError
        If shapes do not match.

    Examples
    --------
    >>> import torch
    >>> MemoryBank(torch.zeros(5, 8), torch.zeros(5, 3, dtype=torch.int64)).seen
    5
    """

    vectors: Tensor
    origin: Tensor
    seen: int | None = None
    descriptors: Tensor | None = None
    levels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_dimensions("MemoryBank.vectors", self.vectors, "[M, D]", ndim=2)
        _check_dimensions("MemoryBank.origin", self.origin, "[M, 3]", ndim=2)
        if tuple(self.origin.shape) != (len(self.vectors), 3):
            raise TensorError(
                f"MemoryBank.origin: expected shape [{len(self.vectors)}, 3], one row per vector, "
                f"got {list(self.origin.shape)}"
            )
        if self.descriptors is not None:
            _check_dimensions("MemoryBank.descriptors", self.descriptors, "[P, G]", ndim=2)
        _check_levels("MemoryBank", self.levels, self.vectors.shape[1])
        if self.seen is None:
            object.__setattr__(self, "seen", len(self.vectors))

    def to(self, device: torch.device | str) -> MemoryBank:
        """Return the same bank on `device`."""
        descriptors = None if self.descriptors is None else self.descriptors.to(device)
        return MemoryBank(self.vectors.to(device), self.origin.to(device), self.seen, descriptors, self.levels)


@dataclass(frozen=True)
class Reduction:
    """Instructions for a sampler that selects from a bank and new patches.

    Parameters
    ----------
    rows
        How many of the vectors, the first ones, are rows of a bank; new patches follow. 0 if all are new.
    seen
        Number of patches that all vectors represent; a bank represents more than its rows. Fractions refer to this.
    limit
        Largest number of vectors to select; None for no limit except that of the options.

    Examples
    --------
    >>> Reduction(rows=100, seen=5000)
    Reduction(rows=100, seen=5000, limit=None)
    """

    rows: int
    seen: int
    limit: int | None = None


@dataclass(frozen=True)
class Scores:
    """Anomaly scores of images and of their patches.

    Parameters
    ----------
    image
        Image scores, [B], float32; larger is more anomalous.
    map
        Patch scores, [B, h, w], float32; None for methods that score whole images only.
    nearest
        Row of the bank nearest to each patch, [B, h, w], int64; None for methods without such a row.

    Raises
    ------
    TensorError
        If a tensor has the wrong number of dimensions.

    Examples
    --------
    >>> import torch
    >>> Scores(image=torch.tensor([0.2, 3.1])).map is None
    True
    """

    image: Tensor
    map: Tensor | None = None
    nearest: Tensor | None = None

    def __post_init__(self) -> None:
        _check_dimensions("Scores.image", self.image, "[B]", ndim=1)
        for name in ("map", "nearest"):
            tensor = getattr(self, name)
            if tensor is not None:
                _check_dimensions(f"Scores.{name}", tensor, "[B, h, w]", ndim=3)


@runtime_checkable
class Backbone(Protocol):
    """Frozen feature extractor.

    Examples
    --------
    >>> import torch
    >>> class Colours:
    ...     mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    ...
    ...     def __call__(self, images):
    ...         return [torch.nn.functional.avg_pool2d(images, 8)]
    ...
    ...     def to(self, device):
    ...         return self
    ...
    ...     def weight_hash(self):
    ...         return hash_weights({})
    >>> isinstance(Colours(), Backbone)
    True
    """

    mean: tuple[float, float, float]
    """Channel means (RGB, images in 0..1) that the input of the network is normalised with."""
    std: tuple[float, float, float]
    """Channel standard deviations (RGB, images in 0..1) that the input of the network is normalised with."""

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Return feature maps [B, C_i, h_i, w_i], finest first, of normalised images [B, 3, H, W].

        A backbone with an option ``layers`` may also have an attribute ``layers``: the names of the maps that it
        returns, in order.
        """
        ...

    def to(self, device: torch.device | str) -> Backbone:
        """Move the weights to `device` and return the backbone."""
        ...

    def weight_hash(self) -> str:
        """Return a hex digest of the weights, different for different weights (see `hash_weights`)."""
        ...


@runtime_checkable
class Aggregator(Protocol):
    """Conversion of feature maps into locally aware patch embeddings.

    Examples
    --------
    >>> import torch
    >>> class FinestMap:
    ...     def __call__(self, maps):
    ...         return Patches(grid=maps[0].permute(0, 2, 3, 1))
    >>> aggregator: Aggregator = FinestMap()
    >>> list(aggregator([torch.zeros(2, 8, 4, 5)]).grid.shape)
    [2, 4, 5, 8]
    """

    def __call__(self, maps: Sequence[Tensor]) -> Patches:
        """Return patches on the grid of ``maps[0]``, the finest map."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Selection of the patches that the memory bank keeps.

    Examples
    --------
    >>> import torch
    >>> class EveryTenth:
    ...     def __call__(self, vectors):
    ...         return torch.arange(0, len(vectors), 10, device=vectors.device)
    >>> sampler: Sampler = EveryTenth()
    >>> sampler(torch.zeros(25, 8)).tolist()
    [0, 10, 20]
    """

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return int64 indices [M] of the selected rows of `vectors` [N, D], in selection order.

        Three attributes are optional:

        - ``radii_``: float64 [M], the covering radius after each pick: the largest distance from any row to its
          nearest pick. None if unknown.
        - ``keeps_all``: true if the sampler always returns every row.
        - ``reduction``: None or a `Reduction`, set before a call and valid for it. A sampler with this attribute can
          select from a bank and new patches, which updates and bounded memory need. It then returns a fraction of
          ``seen``, and at most ``limit`` rows.
        """
        ...


@runtime_checkable
class Scorer(Protocol):
    """Anomaly scores of patches, relative to the memory bank.

    A scorer may have a method ``export_module()``, which makes a fitted model exportable as a whole
    (``patchcore export``). It returns a ``torch.nn.Module`` that takes `Patches` and returns `Scores`. The module uses
    operations that torch.export can trace for any number of images, and registers all tensors as buffers.

    Examples
    --------
    >>> import torch
    >>> class DistanceToMean:
    ...     def fit(self, bank):
    ...         self.mean = bank.vectors.mean(dim=0)
    ...
    ...     def __call__(self, patches):
    ...         distance = (patches.grid - self.mean).norm(dim=-1)
    ...         return Scores(image=distance.amax(dim=(1, 2)), map=distance)
    ...
    ...     def state(self):
    ...         return {"mean": self.mean}
    ...
    ...     def restore(self, bank, state):
    ...         self.mean = state["mean"]
    >>> isinstance(DistanceToMean(), Scorer)
    True
    """

    def fit(self, bank: MemoryBank) -> None:
        """Fit to the normal patches of a bank."""
        ...

    def __call__(self, patches: Patches) -> Scores:
        """Return the scores of patches, after `fit` or `restore`."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """Return the tensors that `fit` computed in addition to the bank (often none), to be saved in model files."""
        ...

    def restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        """Restore the result of `fit` without computing it again.

        Parameters
        ----------
        bank
            The bank that was passed to `fit`; without rows if the scorer was fitted batch by batch.
        state
            What `state` returned after the fit, on the device of the bank.
        """
        ...


@runtime_checkable
class StreamingScorer(Scorer, Protocol):
    """Scorer that can also be fitted batch by batch, so that a fit does not have to store the patches of all images.

    A fit streams if the sampler keeps every patch (``keeps_all``). There is no bank then: `restore` receives one
    without rows. Streaming must give the result of `fit` on a bank of the same patches, up to rounding.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> isinstance(pp.Host(entry_points=False).create("scorer", "gaussian"), StreamingScorer)
    True
    """

    def update(self, patches: Patches) -> None:
        """Add the patches of further images; scores do not change before `finish`."""
        ...

    def finish(self) -> None:
        """Use all patches added so far for scoring; further calls of `update` may follow."""
        ...


def hash_weights(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, dtypes, shapes and bytes, independent of their order.

    Examples
    --------
    >>> import torch
    >>> hash_weights({"weight": torch.zeros(2)})[:8]
    '80617417'
    """
    import hashlib

    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_dimensions(name: str, tensor: Tensor, shape: str, *, ndim: int) -> None:
    if tensor.ndim != ndim:
        raise TensorError(f"{name}: expected shape {shape}, got {list(tensor.shape)}")


def _check_levels(name: str, levels: tuple[int, ...] | None, dims: int) -> None:
    if levels is not None and sum(levels) != dims:
        raise TensorError(f"{name}.levels: expected counts that add up to {dims} values, got {list(levels)}")
