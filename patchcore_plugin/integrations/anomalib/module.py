"""PatchCore from plugins as an anomalib model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib import LearningType
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule, MemoryBankMixin
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from torch import Tensor, nn

from patchcore_plugin.errors import DatasetError, OptionError, PatchcoreError
from patchcore_plugin.models.fitting.buffer import PatchBuffer
from patchcore_plugin.models.fitting.memory import patches_per_image, require_memory
from patchcore_plugin.models.pipeline import Pipeline, Precision
from patchcore_plugin.models.recipes import Preprocessing, Recipe
from patchcore_plugin.plugins.manager import default_host

from .model import PipelineModel, plain
from .preparation import Preparation

logger = logging.getLogger(__name__)


class PluginPatchcore(MemoryBankMixin, AnomalibModule):
    """PatchCore, or any other recipe with one member, as an anomalib model.

    The same images, options and seed give the scores of ``patchcore_plugin.Detector``, whatever the order of images in
    the data loader. Thresholds and normalisation are those of anomalib's post-processor.

    Parameters
    ----------
    recipe : dict or str
        Name of a built-in recipe, path of a TOML file, or a whole recipe as a dict.
    backbone : dict or str, optional
        Another backbone's name, or options such as {"name": "efficientnet-lite0", "layers": ["stage3"]}.
    aggregator : dict or str, optional
        Another aggregator's name, or options such as {"patch_size": 5}.
    sampler : dict or str, optional
        Another sampler's name, or options such as {"ratio": 0.01}.
    scorer : dict or str, optional
        Another scorer's name, or options such as {"neighbours": 5}.
    preprocessing : dict, optional
        Options such as {"size": [512, 512]}.
    map : dict, optional
        Options of the anomaly map such as {"sigma": 8}.
    seed : int
        Random seed, for components whose own seed is not set.
    precision : str
        "fp32", or "bf16" to run the backbone in bfloat16.
    pre_processor : Module or bool
        The preprocessing of the recipe, or another that leaves images in 0..1: each backbone normalises its input.
    post_processor : Module or bool
        That of every anomalib model.
    evaluator : Evaluator or bool
        That of every anomalib model.
    visualizer : Visualizer or bool
        That of every anomalib model.

    Raises
    ------
    PatchcoreError
        For an unknown recipe, component or option, several members, or weights that are not available.
    """

    model: PipelineModel

    def __init__(
        self,
        recipe: dict[str, Any] | str = "patchcore",
        backbone: dict[str, Any] | str | None = None,
        aggregator: dict[str, Any] | str | None = None,
        sampler: dict[str, Any] | str | None = None,
        scorer: dict[str, Any] | str | None = None,
        preprocessing: dict[str, Any] | None = None,
        map: dict[str, Any] | None = None,  # noqa: A002
        seed: int = 0,
        precision: Precision = "fp32",
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        chosen = Recipe.load(recipe) if isinstance(recipe, str) else Recipe.from_dict(recipe)
        changes: dict[str, str | Mapping[str, Any] | None] = {
            "backbone": backbone,
            "aggregator": aggregator,
            "sampler": sampler,
            "scorer": scorer,
            "preprocessing": preprocessing,
            "map": map,
        }
        for part, change in changes.items():
            if change is not None:
                chosen = chosen.change(part, change)
        host = default_host()
        pipeline = Pipeline(chosen.resolve(host, seed), host, device="cpu", precision=precision)
        super().__init__(
            pre_processor=Preparation(chosen.preprocessing) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        # A checkpoint holds every option, so that it needs no recipe file and does not depend on defaults.
        self.hparams.update({**dict.fromkeys(changes), "recipe": plain(pipeline.recipe.to_dict())})
        self.model = PipelineModel(pipeline)
        self._buffer: PatchBuffer | None = None
        self._paths: list[str] = []

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None, center_crop_size: tuple[int, int] | None = None
    ) -> PreProcessor:
        """Return a pre-processor that resizes images and crops their centre.

        Parameters
        ----------
        image_size
            Height and width after resizing, in pixels; 256 x 256 if None.
        center_crop_size
            Height and width of the centre crop, in pixels; no crop if None.
        """
        return Preparation(Preprocessing(size=image_size or (256, 256), crop=center_crop_size))

    @staticmethod
    def configure_optimizers() -> None:
        """Return no optimiser, because nothing is trained."""

    @property
    def learning_type(self) -> LearningType:
        """Good images only."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """One pass over the images, on one device."""
        return {"gradient_clip_val": 0, "max_epochs": 1, "num_sanity_val_steps": 0, "devices": 1}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Collect the patches of an ``ImageBatch``.

        Parameters
        ----------
        batch
            The images and their paths.
        batch_idx
            Number of the batch in the epoch; 0 starts a new memory bank.

        Returns
        -------
        Tensor
            The loss that Lightning expects, always 0.

        Raises
        ------
        DatasetError
            If the data loader yields more images than its dataset has.
        """
        patches = self.model.patches(batch.image)
        loader: Any = self.trainer.train_dataloader
        capacity, count = len(loader.dataset), len(batch.image)
        if batch_idx == 0:
            require_memory(capacity, patches)
            self._buffer = PatchBuffer(capacity * patches_per_image(patches), patches)
            self._paths = []
            self._is_fitted = torch.tensor([False], device=self.device)
        assert self._buffer is not None
        if count > self._buffer.free_images:
            raise DatasetError(
                f"the training data loader returns more images than its dataset has ({capacity}); use one that returns "
                "each image once"
            )
        self._buffer.add(patches)
        self._paths += batch.image_path or [""] * count
        return torch.tensor(0.0, device=self.device, requires_grad=True)

    @torch.inference_mode(mode=False)
    def fit(self) -> None:
        """Select the memory bank and fit the scorer; anomalib calls it after the last training image.

        Raises
        ------
        DatasetError
            If there was no training image.
        """
        if self._buffer is None:
            raise DatasetError("the model has no training image; call Engine.fit, or load a checkpoint")
        buffer, pipeline = self._buffer, self.model.pipeline
        # The order of the detector, which is given sorted paths.
        order: list[int] = np.argsort(np.array(self._paths), kind="stable").tolist()
        _reorder(buffer, order)
        index = pipeline.select(pipeline.new_sampler(), buffer.vectors())
        self.model.fit_bank(buffer.bank(index), [self._paths[number] for number in order])
        logger.info("%d of %d patches are kept", len(index), buffer.rows)
        self._buffer = None

    def on_validation_start(self) -> None:
        """Fit first, unless this is a trial run before there is anything to fit on."""
        if not self.trainer.sanity_checking:
            super().on_validation_start()

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Score an ``ImageBatch``."""
        if self.trainer.sanity_checking:
            return batch
        return batch.update(**self.model(batch.image)._asdict())

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Refuse: anomalib's torch export is a pickle of the whole program.

        Parameters
        ----------
        export_root, model_file_name
            Ignored.

        Returns
        -------
        Path
            Never; the method always raises.

        Raises
        ------
        PatchcoreError
            Always; says what to use instead.
        """
        raise PatchcoreError(
            "export type 'torch' pickles the program of the model, and loading a pickle can run any code; use the "
            "checkpoint with PluginPatchcore.load_from_checkpoint, or export type 'onnx'"
        )

    def to_onnx(  # type: ignore[override]
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Export preprocessing, model and post-processor as one ONNX program of any batch size.

        Parameters
        ----------
        export_root, model_file_name
            The file is ``export_root/weights/onnx/model_file_name.onnx``.
        input_size
            Height and width of its input images; any size if None.
        kwargs
            Passed on to ``torch.onnx.export``; opset_version is 18 if not given.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        PatchcoreError
            If the model is not fitted, a component cannot be traced, or `input_size` is needed.
        OptionError
            If the preprocessing keeps the aspect ratio and `input_size` is None.
        """
        from .traced_model import TracedModel, export_errors

        fitted = self.model
        if input_size is None and fitted.pipeline.recipe.preprocessing.keep_aspect:
            raise OptionError(
                "keep_aspect makes the resizing depend on the image; pass input_size, the height and width of the "
                "input images of the exported model"
            )
        with export_errors(fitted.pipeline.recipe):
            try:
                self.model = TracedModel(fitted)  # type: ignore[assignment]
                # Older operator sets have no resizing with antialiasing, so scores would differ.
                options = {"opset_version": 18, "verbose": False, **kwargs}
                return super().to_onnx(export_root, model_file_name, input_size, **options)
            finally:
                self.model = fitted


def _reorder(buffer: PatchBuffer, order: list[int]) -> None:
    """Move image ``order[i]`` to place i, for all i, by swaps of two images."""
    current = list(range(len(order)))
    for place, image in enumerate(order):
        other = current.index(image, place)
        buffer.swap([place], [other])
        current[place], current[other] = current[other], current[place]
