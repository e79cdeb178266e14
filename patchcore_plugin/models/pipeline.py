"""A recipe's four components at work on tensors, whoever brings the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from patchcore_plugin.errors import OptionError, TensorError
from patchcore_plugin.kernels.device import usable_device
from patchcore_plugin.plugins.manager import Host, default_host
from patchcore_plugin.plugins.protocols import Aggregator, Backbone, Patches, Reduction, Sampler, Scorer, Scores
from patchcore_plugin.plugins.specs import ROLES

from .recipes.recipe import Recipe
from .tiling import tiled

Precision = Literal["fp32", "bf16"]


class Composition:
    """Backbone, aggregator, sampler and scorer of a recipe, on one device.

    Parameters
    ----------
    recipe
        The components and their options.
    seed
        Governs whatever a component draws at random and has no seed of its own set.
    device
        "auto" (a GPU if there is one), "cpu", "cuda" and so on.
    precision
        "fp32", or "bf16" to run the backbone in bfloat16.
    host
        Where the components come from; all installed plugins by default.
    backbone
        The recipe's backbone, if it is there already; made anew by default.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        precision: Precision = "fp32",
        host: Host | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        self.host = host or default_host()
        self.seed = seed
        self.recipe = recipe.resolved(self.host, seed)
        self.device = usable_device(device)
        if precision not in get_args(Precision):
            raise OptionError(f"precision must be {' or '.join(get_args(Precision))}, got {precision!r}")
        self.precision = precision
        self.backbone: Backbone = (backbone or self._component("backbone")).to(self.device)
        self.aggregator: Aggregator = self._component("aggregator")
        self.scorer: Scorer = self.fresh_scorer()

    def to(self, device: str | torch.device) -> Composition:
        """Move the backbone's weights to `device` and work there; the scorer has to be fitted or restored again."""
        self.device = usable_device(device)
        self.backbone = self.backbone.to(self.device)
        return self

    @torch.inference_mode()
    def patches(self, images: Tensor) -> Patches:
        """Return the patch vectors of images.

        Parameters
        ----------
        images
            RGB [B, 3, h, w], float32 in 0..1, as `preprocessing.prepare` makes them; on any device.

        Raises
        ------
        TensorError
            If the backbone's features are not finite.
        """
        options = self.recipe.preprocessing
        if self.device.type == "cuda" and not images.is_cuda:
            images = images.pin_memory()  # so that the copy does not wait for what the GPU has to do before it
        images = images.to(self.device, non_blocking=True)
        if options.tile is None:
            patches = self._patches(images)
        else:
            patches = tiled(images, options.tile, options.overlap, self._patches)
        # The extremes are NaN if anything is: as safe as looking at each value, in a tenth of the time.
        found = [patches.grid] if patches.descriptors is None else [patches.grid, patches.descriptors]
        if not all(torch.isfinite(torch.stack(torch.aminmax(each))).all() for each in found):
            raise TensorError(f"backbone {self.recipe.backbone.name!r}: its features are not finite; check its weights")
        return patches

    def _patches(self, images: Tensor) -> Patches:
        mean, std = (
            torch.tensor(values, device=self.device).view(3, 1, 1) for values in (self.backbone.mean, self.backbone.std)
        )
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            maps = self.backbone((images - mean) / std)
        return self.aggregator([features.float() for features in maps])

    def fresh_scorer(self) -> Scorer:
        """Return a scorer that has learned nothing yet; `scorer` stays what it is until it is replaced."""
        scorer: Scorer = self._component("scorer")
        return scorer

    def sampler(self, progress: Callable[[int, int], object] | None = None) -> Sampler:
        """Return a fresh sampler, which calls `progress` with what is done and what is to do if it can."""
        sampler: Sampler = self._component("sampler")
        if progress is not None and hasattr(sampler, "progress"):
            sampler.progress = progress
        return sampler

    def select(self, sampler: Sampler, vectors: Tensor, reduction: Reduction | None = None) -> Tensor:
        """Return the rows of `vectors` [N, D] that `sampler` keeps, int64 [M].

        Parameters
        ----------
        sampler
            One of `sampler`.
        vectors
            What it chooses from.
        reduction
            What it is told of them; only for one that has such an attribute.

        Raises
        ------
        TensorError
            If what it returns are no such rows, or more than it was allowed.
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

    @torch.inference_mode()
    def score(self, patches: Patches) -> Scores:
        """Score patches with the fitted scorer."""
        return self.scorer(patches)

    def describe(self) -> dict[str, Any]:
        """Return, for a manifest, the recipe and all that decides what it computes here."""
        plugins, kernels = {}, {}
        for role in ROLES:
            component = self.host.component(role, self.recipe.choice(role).name)
            plugins[role] = {"distribution": component.plugin.distribution, "version": component.plugin.version}
            if component.spec.kernels is not None:
                kernels[role] = component.spec.kernels(self.device.type)
        return {
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "precision": self.precision,
            "plugins": plugins,
            "kernels": kernels,
            "backbone_sha256": self.backbone.weight_hash(),
        }

    def extraction(self) -> dict[str, Any]:
        """Return all that decides what `patches` returns, as JSON-like data: recipe, weights, device, versions."""
        described, parts = self.describe(), ("backbone", "aggregator")
        return {
            "recipe": {part: described["recipe"][part] for part in (*parts, "preprocessing")},
            "plugins": {role: described["plugins"][role] for role in parts},
            "backbone_sha256": described["backbone_sha256"],
            "precision": self.precision,
            "device": self.device.type,
            "torch": torch.__version__,
        }

    def _component(self, role: str) -> Any:
        choice = self.recipe.choice(role)
        return self.host.build(role, choice.name, self.host.configure(role, choice.name, choice.options))
