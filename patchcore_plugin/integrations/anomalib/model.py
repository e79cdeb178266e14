"""A composition as the torch model inside anomalib's Lightning module; its state is the memory bank."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from patchcore_plugin.errors import OptionError, TensorError, WeightsError
from patchcore_plugin.models.pipeline import Composition
from patchcore_plugin.models.preprocessing import Geometry, anomaly_map
from patchcore_plugin.models.recipes.recipe import Map
from patchcore_plugin.plugins.protocols import MemoryBank, Patches, Scores


class ComposedModel(nn.Module):
    """A composition with its bank.

    The backbone's weights are no part of the state: a checkpoint holds their hash, and refuses others.

    Parameters
    ----------
    composition
        The four components.
    """

    composition: Composition

    def __init__(self, composition: Composition) -> None:
        super().__init__()
        self.composition = composition
        self.bank: MemoryBank | None = None
        self.images: list[str] = []
        """Paths of the training images, by the numbers in ``bank.origin``."""

    def patches(self, images: Tensor) -> Patches:
        """Return the patch vectors of prepared images [B, 3, h, w] in 0..1."""
        with _full_precision(images):
            return self.composition.patches(images.float())

    def hold(self, bank: MemoryBank, images: Sequence[str]) -> None:
        """Fit the scorer on a bank of these training images."""
        self.composition.scorer.fit(bank)
        self.bank, self.images = bank, list(images)

    def forward(self, images: Tensor) -> InferenceBatch:
        """Judge prepared images.

        Parameters
        ----------
        images
            [B, 3, h, w] in 0..1.

        Returns
        -------
        InferenceBatch
            pred_score [B] and anomaly_map [B, 1, h, w], float32; no map where the scorer has none.

        Raises
        ------
        TensorError
            If there is no bank yet.
        """
        if self.bank is None:
            raise TensorError("the model is not fitted; call Engine.fit or load a checkpoint first")
        with _full_precision(images):
            scores = self.composition.score(self.patches(images))
            return as_batch(scores, images, self.composition.recipe.map)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ComposedModel:
        """Follow a move to another device; other changes, such as of the type of numbers, do not concern a bank."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.empty(0, device=self.composition.device)).device
        if device != self.composition.device:
            state = self.composition.scorer.state() if self.bank else {}
            self.composition.to(device)
            if self.bank is not None:
                self._restore(self.bank, state)
        return self

    def _restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        device = self.composition.device
        self.bank = bank.to(device)
        self.composition.scorer.restore(self.bank, {name: tensor.to(device) for name, tensor in state.items()})

    def get_extra_state(self) -> dict[str, Any]:
        """Return the bank, what the scorer knows beyond it, and what both depend on; nothing before the fit."""
        if self.bank is None:
            return {}
        return {
            "recipe": plain(self.composition.recipe.to_dict()),
            "backbone_sha256": self.composition.backbone.weight_hash(),
            "photos": self.images,
            "patches_seen": self.bank.seen,
            "levels": self.bank.levels,
            "bank.vectors": self.bank.vectors,
            "bank.origin": self.bank.origin,
            "bank.images": self.bank.descriptors,
            **{f"scorer.{name}": tensor for name, tensor in self.composition.scorer.state().items()},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Become what `get_extra_state` described.

        Raises
        ------
        WeightsError
            If the backbone's weights are not those that the bank was made with.
        OptionError
            If the aggregator or the scorer are not.
        """
        if not state:
            self.bank, self.images = None, []
            return
        recipe = self.composition.recipe
        if self.composition.backbone.weight_hash() != state["backbone_sha256"]:
            raise WeightsError(
                f"the checkpoint was fitted with backbone {state['recipe']['backbone']['name']!r}, and the weights of "
                f"{recipe.backbone.name!r} here are others; give the model the checkpoint's options, or make it with "
                "PluginPatchcore.load_from_checkpoint; if they are the same, install the versions that it was fitted "
                "with, or fit again"
            )
        here = plain(recipe.to_dict())
        for role in ("aggregator", "scorer"):
            if here[role] != state["recipe"][role]:
                raise OptionError(
                    f"the checkpoint was fitted with {role} {state['recipe'][role]} and the model has {here[role]}; "
                    "give the model the same, or make it with PluginPatchcore.load_from_checkpoint"
                )
        bank = MemoryBank(
            state["bank.vectors"],
            state["bank.origin"],
            state["patches_seen"],
            state.get("bank.images"),  # older checkpoints have neither
            state.get("levels"),
        )
        prefix = "scorer."
        scorer = {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}
        self._restore(bank, scorer)
        self.images = list(state["photos"])


def as_batch(scores: Scores, images: Tensor, options: Map) -> InferenceBatch:
    """Return scores as anomalib's record, with the map brought to the size of `images`."""
    if scores.map is None:
        return InferenceBatch(pred_score=scores.image)
    grid = scores.map
    rows, columns = (lifting(grid.shape[axis], images.shape[axis + 1], options).to(grid.device) for axis in (1, 2))
    return InferenceBatch(pred_score=scores.image, anomaly_map=(rows @ grid @ columns.T)[:, None])


@lru_cache(maxsize=8)
def lifting(few: int, many: int, options: Map) -> Tensor:
    """Return the matrix [many, few], float32, that upsamples and blurs one axis of a grid of patch scores.

    Both are linear and act on each axis alike and on its own, so the map is ``rows @ grid @ columns.T``: on any
    device, and traceable. The columns of the matrix are what becomes of unit impulses.
    """
    line = Geometry(image=(many, 1), resized=(many, 1), crop=(0, 0, many, 1))
    impulses = np.eye(few, dtype=np.float32)
    return torch.from_numpy(np.hstack([anomaly_map(impulse[:, None], line, options) for impulse in impulses]))


def plain(data: Any) -> Any:
    """Return JSON-like data of JSON's own types only, which checkpoints may hold without a pickle."""
    return json.loads(json.dumps(data))


def _full_precision(images: Tensor) -> torch.autocast:
    """Keep a trainer's automatic precision away from distances; the backbone has a `precision` of its own."""
    return torch.autocast(images.device.type, enabled=False)
