"""PatchCore by plugins as an anomalib model."""

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
from patchcore_plugin.models.calibration import fit_order
from patchcore_plugin.models.fitting.inputs import PatchBuffer
from patchcore_plugin.models.pipeline import Composition, Precision
from patchcore_plugin.models.recipes.recipe import Preprocessing, Recipe

from .model import ComposedModel, plain
from .preparation import Preparation

logger = logging.getLogger(__name__)


class PluginPatchcore(MemoryBankMixin, AnomalibModule):
    """PatchCore, or whatever a recipe composes of plugins, as a model of anomalib.

    The same images, options and seed give the scores of ``patchcore_plugin.Detector``; the images' order in the data
    loader has no influence. Thresholds and normalisation are those of anomalib's post-processor.

    Parameters
    ----------
    recipe : dict or str
        Name of a shipped recipe, path of a TOML file, or a whole recipe as a dict.
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
        Governs whatever a component draws at random and has no seed of its own set.
    precision : str
        "fp32", or "bf16" to run the backbone in bfloat16.
    pre_processor : Module or bool
        The recipe's preprocessing, or another that leaves images in 0..1: backbones normalise themselves.
    post_processor : Module or bool
        As in every model of anomalib.
    evaluator : Evaluator or bool
        As in every model of anomalib.
    visualizer : Visualizer or bool
        As in every model of anomalib.

    Raises
    ------
    PatchcoreError
        For an unknown recipe, component or option, or weights that are not to be had.
    """

    model: ComposedModel

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
        composition = Composition(chosen, seed=seed, device="cpu", precision=precision)
        super().__init__(
            pre_processor=Preparation(chosen.preprocessing) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        # A checkpoint keeps every option, so that it needs no recipe file and outlives a change of defaults.
        self.hparams.update({**dict.fromkeys(changes), "recipe": plain(composition.recipe.to_dict())})
        self.model = ComposedModel(composition)
        self._features: PatchBuffer | None = None
        self._paths: list[str] = []

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None, center_crop_size: tuple[int, int] | None = None
    ) -> PreProcessor:
        """Return a pre-processor that resizes to `image_size`, 256 x 256 by default, and crops the centre."""
        return Preparation(Preprocessing(size=image_size or (256, 256), crop=center_crop_size))

    @staticmethod
    def configure_optimizers() -> None:
        """Return no optimiser: nothing is trained."""

    @property
    def learning_type(self) -> LearningType:
        """Good images only."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """One pass over the images, on one device."""
        return {"gradient_clip_val": 0, "max_epochs": 1, "num_sanity_val_steps": 0, "devices": 1}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Collect the patches of an ``ImageBatch``; the loss that Lightning expects means nothing."""
        if batch_idx == 0:
            loader: Any = self.trainer.train_dataloader
            self._features = PatchBuffer(len(loader.dataset))
            self._paths = []
            self._is_fitted = torch.tensor([False], device=self.device)
        assert self._features is not None
        count = len(batch.image)
        if len(self._features) + count > self._features.capacity:
            raise DatasetError(
                f"the training data loader gives more images than the {self._features.capacity} of its dataset; "
                "take one that gives each image once"
            )
        self._features.add(self.model.patches(batch.image))
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
        if self._features is None:
            raise DatasetError("the model has seen no training image; call Engine.fit, or load a checkpoint")
        order = _order_of_the_detector(self._paths, self.model.composition.seed)
        features = self._features
        _arrange(features, order)
        composition = self.model.composition
        index = composition.select(composition.sampler(), features.vectors())
        self.model.hold(features.bank(index), [self._paths[number] for number in order])
        logger.info("%d of %d patches are kept", len(index), len(features.vectors()))
        self._features = None

    def on_validation_start(self) -> None:
        """Fit first, unless this is a trial run before there is anything to fit on."""
        if not self.trainer.sanity_checking:
            super().on_validation_start()

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Judge an ``ImageBatch``."""
        if self.trainer.sanity_checking:
            return batch
        return batch.update(**self.model(batch.image)._asdict())

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Refuse: anomalib's torch export is a pickle of the whole program.

        Raises
        ------
        PatchcoreError
            Always, with what to do instead.
        """
        raise PatchcoreError(
            "export type 'torch' would pickle the model's program, which runs whatever code the file holds when it is "
            "loaded; use the checkpoint with PluginPatchcore.load_from_checkpoint, or export type 'onnx'"
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
            Height and width of the images that it will take; any if None.
        kwargs
            Passed on to ``torch.onnx.export``; opset_version is 18 if not given.

        Raises
        ------
        PatchcoreError
            If the model is not fitted, a component cannot be traced, or `input_size` is needed.
        """
        from .traced import TracedModel, explained

        fitted = self.model
        if input_size is None and fitted.composition.recipe.preprocessing.keep_aspect:
            raise OptionError(
                "the recipe's keep_aspect makes the resizing depend on the image; give input_size, the height and "
                "width of the images that the exported model will take"
            )
        with explained(fitted.composition.recipe):
            try:
                self.model = TracedModel(fitted)  # type: ignore[assignment]
                # Older operator sets have no resizing with antialiasing, so that scores would differ.
                options = {"opset_version": 18, "verbose": False, **kwargs}
                return super().to_onnx(export_root, model_file_name, input_size, **options)
            finally:
                self.model = fitted


def _order_of_the_detector(paths: list[str], seed: int) -> list[int]:
    """Return in which order `Detector.fit`, given sorted paths, has the images: those it holds out come last."""
    ascending = np.argsort(np.array(paths), kind="stable")
    order: list[int] = ascending[np.concatenate(fit_order(len(paths), seed))].tolist()
    return order


def _arrange(features: PatchBuffer, order: list[int]) -> None:
    """Put image ``order[i]`` in place i, for all i, with memory for a single image more."""
    held = list(range(len(order)))
    for place, image in enumerate(order):
        other = held.index(image, place)
        features.exchange([place], [other])
        held[place], held[other] = held[other], held[place]
