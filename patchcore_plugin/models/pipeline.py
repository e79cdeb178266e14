"""The components of a recipe with one member, on tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from patchcore_plugin.errors import OptionError, TensorError
from patchcore_plugin.kernels.device import usable_device
from patchcore_plugin.plugins.manager import Host
from patchcore_plugin.plugins.protocols import (
    Aggregator,
    Backbone,
    Patches,
    Reduction,
    Sampler,
    Scorer,
)
from patchcore_plugin.plugins.specs import ROLES, Capabilities

from .recipes import Recipe
from .tiling import tile_patches

Precision = Literal["fp32", "bf16"]


class Pipeline:
    """Backbone and aggregator of a member, and makers of its sampler and scorer, on one device.

    Parameters
    ----------
    recipe
        A recipe with one member, resolved (`Recipe.resolve`).
    host
        Provides the components.
    device
        "auto" (a GPU if there is one), "cpu", "cuda" and so on.
    precision
        "fp32", or "bf16" to run the backbone in bfloat16.

    Raises
    ------
    OptionError
        For an unknown precision, or a recipe of several members.
    TensorError
        If the device cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        host: Host,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "fp32",
    ) -> None:
        self.recipe = recipe
        self.host = host
        self.device = usable_device(device)
        if precision not in get_args(Precision):
            raise OptionError(f"precision must be {' or '.join(get_args(Precision))}, got {precision!r}")
        self.precision = precision
        self.backbone: Backbone = self._component("backbone").to(self.device)
        self.aggregator: Aggregator = self._component("aggregator")
        for create in (self.new_sampler, self.new_scorer):  # what cannot be created fails before any image is read
            create()

    def to(self, device: str | torch.device) -> None:
        """Move the backbone to `device` and compute there."""
        self.device = usable_device(device)
        self.backbone = self.backbone.to(self.device)

    @torch.inference_mode()
    def patches(self, images: Tensor) -> Patches:
        """Return the patch embeddings of images.

        Parameters
        ----------
        images
            RGB [B, 3, h, w], float32 in 0..1, from `preprocessing.prepare`; on any device.

        Raises
        ------
        TensorError
            If the features of the backbone are not finite.
        """
        options = self.recipe.preprocessing
        if self.device.type == "cuda" and not images.is_cuda:
            images = images.pin_memory()  # lets the copy overlap with work that the GPU has queued
        images = images.to(self.device, non_blocking=True)
        if options.tile is None:
            patches = self._patches(images)
        else:
            patches = tile_patches(images, options.tile, options.overlap, self._patches)
        # NaN propagates to minimum and maximum: as safe as checking each value, in a tenth of the time.
        tensors = [patches.grid] if patches.descriptors is None else [patches.grid, patches.descriptors]
        if not all(torch.isfinite(torch.stack(torch.aminmax(tensor))).all() for tensor in tensors):
            raise TensorError(f"backbone {self.recipe.backbone.name!r}: its features are not finite; check its weights")
        return patches

    def _patches(self, images: Tensor) -> Patches:
        mean, std = (
            torch.tensor(values, device=self.device).view(3, 1, 1) for values in (self.backbone.mean, self.backbone.std)
        )
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            maps = self.backbone((images - mean) / std)
        return self.aggregator([features.float() for features in maps])

    def new_scorer(self) -> Scorer:
        """Return a scorer that is not fitted."""
        scorer: Scorer = self._component("scorer")
        return scorer

    def new_sampler(self, progress: Callable[[int, int], object] | None = None) -> Sampler:
        """Return a sampler that calls `progress`, if it can, with the work done and the total."""
        sampler: Sampler = self._component("sampler")
        if progress is not None and hasattr(sampler, "progress"):
            sampler.progress = progress
        return sampler

    @cached_property
    def keeps_all(self) -> bool:
        """Whether the sampler keeps every patch."""
        return self._capabilities("sampler").keeps_all

    @cached_property
    def can_reduce(self) -> bool:
        """Whether the sampler can choose from a memory bank and new patches."""
        return self.keeps_all or self._capabilities("sampler").reduces

    @cached_property
    def can_stream(self) -> bool:
        """Whether the scorer can be fitted batch by batch, without a memory bank."""
        return self.keeps_all and self._capabilities("scorer").streaming

    def select(self, sampler: Sampler, vectors: Tensor, reduction: Reduction | None = None) -> Tensor:
        """Return the rows of `vectors` [N, D] that a sampler keeps, int64 [M].

        Parameters
        ----------
        sampler
            From `new_sampler`.
        vectors
            Patch embeddings.
        reduction
            Which of the vectors are memory bank rows, for samplers with the attribute ``reduction``.

        Raises
        ------
        TensorError
            If the sampler returns no valid rows, or more than the reduction allows.
        """
        name = self.recipe.sampler.name
        if reduction is not None:
            sampler.reduction = reduction  # type: ignore[attr-defined]
        index = sampler(vectors)
        if index.ndim != 1 or index.dtype != torch.int64 or not len(index):
            raise TensorError(
                f"sampler {name!r}: expected int64 indices [M], M at least 1, got {index.dtype} {list(index.shape)}"
            )
        if int(index.min()) < 0 or int(index.max()) >= len(vectors):
            raise TensorError(f"sampler {name!r}: expected indices below {len(vectors)}, got {int(index.max())}")
        if reduction is not None and reduction.limit is not None and len(index) > reduction.limit:
            raise TensorError(f"sampler {name!r}: expected at most {reduction.limit} indices, got {len(index)}")
        return index

    def describe(self) -> dict[str, Any]:
        """Return, for a manifest, the recipe, and the versions and kernels of its components."""
        plugins, kernels = {}, {}
        for role in ROLES:
            component = self.host.component(role, self.recipe.choice(role).name)
            plugins[role] = {"distribution": component.plugin.distribution, "version": component.plugin.version}
            if component.spec.kernels is not None:
                kernels[role] = component.spec.kernels(self.device.type)
        return {
            "recipe": self.recipe.to_dict(),
            "precision": self.precision,
            "plugins": plugins,
            "kernels": kernels,
            "backbone_sha256": self.backbone.weight_hash(),
        }

    def extraction_settings(self) -> dict[str, Any]:
        """Return everything that `patches` depends on, apart from the images, as JSON-like data."""
        description, roles = self.describe(), ("backbone", "aggregator")
        return {
            "recipe": {part: description["recipe"][part] for part in (*roles, "preprocessing")},
            "plugins": {role: description["plugins"][role] for role in roles},
            "backbone_sha256": description["backbone_sha256"],
            "precision": self.precision,
            "device": self.device.type,
            "torch": torch.__version__,
        }

    def _config(self, role: str) -> Any:
        choice = self.recipe.choice(role)
        return self.host.configure(role, choice.name, choice.options)

    def _component(self, role: str) -> Any:
        return self.host.build(role, self.recipe.choice(role).name, self._config(role))

    def _capabilities(self, role: str) -> Capabilities:
        return self.host.capabilities(role, self.recipe.choice(role).name, self._config(role))
