"""Small and quiet engines and data modules of anomalib, and their predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import Folder
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from torch import Tensor

from patchcore_plugin.integrations.anomalib import PluginPatchcore

# About the code of Lightning, anomalib and torch.
THEIR_WARNINGS = [
    pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]

SMALL: dict[str, Any] = {
    "backbone": {"name": "resnet18", "weights": "random", "layers": ["layer1", "layer2"]},
    "preprocessing": {"size": [48, 64]},
}
DEEP: dict[str, Any] = {**SMALL, "backbone": {**SMALL["backbone"], "layers": ["layer1", "layer2", "layer3"]}}
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def engine(folder: Path) -> Engine:
    return Engine(default_root_dir=folder, **QUIET)


def folder(dataset: Path, *, masks: bool = True, batch: int = 4) -> Folder:
    return Folder(
        name="washer",
        root=dataset,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/blot",
        mask_dir="ground_truth/blot" if masks else None,
        val_split_mode="same_as_test",
        train_batch_size=batch,
        eval_batch_size=batch,
        num_workers=0,
    )


def load(checkpoint: Path) -> Any:
    return PluginPatchcore.load_from_checkpoint(checkpoint)


def without_normalisation(model: Any) -> Any:
    """Return the model, with scores and maps that are not normalised."""
    model.post_processor.enable_normalization = False
    return model


def predict(model: PluginPatchcore, data: Any, tmp_path: Path) -> dict[str, tuple[float, Tensor | None]]:
    """Return score and map of each image, by path."""
    batches: Any = engine(tmp_path).predict(model=without_normalisation(model), datamodule=data)
    predictions: dict[str, tuple[float, Tensor | None]] = {}
    for batch in batches:
        maps = [None] * len(batch.image_path) if batch.anomaly_map is None else batch.anomaly_map
        for path, score, heat in zip(batch.image_path, batch.pred_score, maps, strict=True):
            predictions[path] = float(score), heat
    return predictions


def images_of(dataset: Path) -> list[Path]:
    return sorted(dataset.glob("test/*/*.png"))


def read(images: list[Path]) -> Tensor:
    return torch.stack([torch.as_tensor(read_image(image, as_tensor=True)) for image in images])
