"""The torch model inside anomalib's Lightning module: a pipeline whose state is the memory bank."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from patchcore_plugin.errors import OptionError, TensorError, WeightsError
from patchcore_plugin.models.pipeline import Pipeline
from patchcore_plugin.models.preprocessing import map_matrix
from patchcore_plugin.models.recipes import Map
from patchcore_plugin.plugins.protocols import MemoryBank, Patches, Scores


class PipelineModel(nn.Module):
    """A pipeline with a scorer and its memory bank.

    The state does not contain the weights of the backbone: a checkpoint holds their hash, and refuses others.

    Parameters
    ----------
    pipeline
        The components.
    """

    pipeline: Pipeline

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.scorer = pipeline.new_scorer()
        self.bank: MemoryBank | None = None
        self.images: list[str] = []
        """Paths of the training images, by the numbers in ``bank.origin``."""

    def patches(self, images: Tensor) -> Patches:
        """Return the patch embeddings of prepared images [B, 3, h, w] in 0..1."""
        with _full_precision(images):
            return self.pipeline.patches(images.float())

    def fit_bank(self, bank: MemoryBank, images: Sequence[str]) -> None:
        """Fit the scorer on a memory bank.

        Parameters
        ----------
        bank
            Patches of the training images.
        images
            Paths of the training images, by the numbers in ``bank.origin``.
        """
        self.scorer.fit(bank)
        self.bank, self.images = bank, list(images)

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score prepared images.

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
            patches = self.patches(images)
            with torch.inference_mode():
                scores = self.scorer(patches)
            return as_batch(scores, images, self.pipeline.recipe.map)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PipelineModel:
        """Move pipeline and memory bank to another device; changes of dtype do not apply to them."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.empty(0, device=self.pipeline.device)).device
        if device != self.pipeline.device:
            state = self.scorer.state() if self.bank else {}
            self.pipeline.to(device)
            if self.bank is not None:
                self._restore(self.bank, state)
        return self

    def _restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        device = self.pipeline.device
        self.bank = bank.to(device)
        self.scorer.restore(self.bank, {name: tensor.to(device) for name, tensor in state.items()})

    def get_extra_state(self) -> dict[str, Any]:
        """Return the memory bank, the state of the scorer, and what both depend on; nothing before the fit."""
        if self.bank is None:
            return {}
        return {
            "recipe": plain(self.pipeline.recipe.to_dict()),
            "backbone_sha256": self.pipeline.backbone.weight_hash(),
            "photos": self.images,
            "patches_seen": self.bank.seen,
            "levels": self.bank.levels,
            "bank.vectors": self.bank.vectors,
            "bank.origin": self.bank.origin,
            "bank.images": self.bank.descriptors,
            **{f"scorer.{name}": tensor for name, tensor in self.scorer.state().items()},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a state from `get_extra_state`.

        Raises
        ------
        WeightsError
            If the weights of the backbone are not those of the fit.
        OptionError
            If aggregator or scorer are not those of the fit.
        """
        if not state:
            self.bank, self.images = None, []
            return
        recipe = self.pipeline.recipe
        if self.pipeline.backbone.weight_hash() != state["backbone_sha256"]:
            raise WeightsError(
                f"the checkpoint was fitted with backbone {state['recipe']['backbone']['name']!r}, and the weights of "
                f"{recipe.backbone.name!r} differ; use PluginPatchcore.load_from_checkpoint, install the versions "
                "of the fit, or fit again"
            )
        current = plain(recipe.to_dict())
        for role in ("aggregator", "scorer"):
            if current[role] != state["recipe"][role]:
                raise OptionError(
                    f"the checkpoint was fitted with {role} {state['recipe'][role]} and the model has {current[role]}; "
                    "use the same options, or PluginPatchcore.load_from_checkpoint"
                )
        bank = MemoryBank(
            state["bank.vectors"],
            state["bank.origin"],
            state["patches_seen"],
            state.get("bank.images"),  # missing, like the levels, in older checkpoints
            state.get("levels"),
        )
        prefix = "scorer."
        scorer = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        self._restore(bank, scorer)
        self.images = list(state["photos"])


def as_batch(scores: Scores, images: Tensor, options: Map) -> InferenceBatch:
    """Return scores as anomalib's record, with maps of the size of the images.

    Parameters
    ----------
    scores
        Scores of a batch of B images.
    images
        The images, [B, 3, H, W].
    options
        How patch scores are upsampled and blurred.
    """
    if scores.map is None:
        return InferenceBatch(pred_score=scores.image)
    grid = scores.map
    rows, columns = (_map_matrix(grid.shape[axis], images.shape[axis + 1], options).to(grid.device) for axis in (1, 2))
    return InferenceBatch(pred_score=scores.image, anomaly_map=(rows @ grid @ columns.T)[:, None])


@lru_cache(maxsize=8)
def _map_matrix(cells: int, length: int, options: Map) -> Tensor:
    return torch.from_numpy(map_matrix(cells, length, options))


def plain(data: Any) -> Any:
    """Return JSON-like data with the types of JSON only, which checkpoints can hold without a pickle."""
    return json.loads(json.dumps(data))


def _full_precision(images: Tensor) -> torch.autocast:
    """Turn off the automatic precision of the trainer, which would round distances."""
    return torch.autocast(images.device.type, enabled=False)
