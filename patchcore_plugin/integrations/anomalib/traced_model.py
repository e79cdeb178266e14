"""A fitted model in operations that torch.export can trace, for ONNX: the same formulas without compiled kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

from patchcore_plugin.errors import PatchcoreError, TensorError
from patchcore_plugin.models.recipes import Recipe

from .model import PipelineModel, as_batch


class TracedModel(nn.Module):
    """The computation of a fitted model, with the backbone in float32.

    Parameters
    ----------
    model
        The fitted model; its backbone and bank are shared, not copied.

    Raises
    ------
    TensorError
        If the model is not fitted.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: PipelineModel) -> None:
        super().__init__()
        if model.bank is None:
            raise TensorError("the model is not fitted; call Engine.fit or load a checkpoint before exporting it")
        pipeline = model.pipeline
        self._backbone, self._aggregator = pipeline.backbone, pipeline.aggregator
        self._map = pipeline.recipe.map
        # torch.export treats only registered modules as weights.
        for name, value in vars(pipeline.backbone).items():
            if isinstance(value, nn.Module):
                self.add_module(f"backbone{name}", value)
        for name, values in (("mean", pipeline.backbone.mean), ("std", pipeline.backbone.std)):
            self.register_buffer(name, torch.tensor(values, device=pipeline.device).view(3, 1, 1))
        export_module = getattr(model.scorer, "export_module", None)
        self._scorer = model.scorer if export_module is None else export_module()

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score prepared images [B, 3, h, w] in 0..1."""
        maps = self._backbone((images - self.mean) / self.std)
        patches = self._aggregator([features.float() for features in maps])
        return as_batch(self._scorer(patches), images, self._map)


@contextmanager
def export_errors(recipe: Recipe) -> Iterator[None]:
    """Report failures of an export to ONNX in one line.

    Raises
    ------
    PatchcoreError
        If a pipeline cannot be traced.
    """
    try:
        yield
    except OnnxExporterError as error:
        names = ", ".join(f"{role} {recipe.choice(role).name!r}" for role in ("backbone", "aggregator", "scorer"))
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise PatchcoreError(
            f"this model cannot be exported to ONNX: torch.export cannot trace one of {names} ({reason}); "
            "use the checkpoint with PluginPatchcore.load_from_checkpoint"
        ) from error
