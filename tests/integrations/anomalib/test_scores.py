"""Scores in anomalib's engine are those of the detector, whatever the order of its data loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD

import patchcore_plugin as pp
from patchcore_plugin.data.images import read_image
from patchcore_plugin.integrations.anomalib import PluginPatchcore
from patchcore_plugin.models.preprocessing import prepare
from patchcore_plugin.models.recipes import Preprocessing
from tests import real_images
from tests.integrations.anomalib.engines import (
    DEEP,
    QUIET,
    SMALL,
    THEIR_WARNINGS,
    engine,
    folder,
    load,
    predict,
    without_normalisation,
)

pytestmark = [*THEIR_WARNINGS, pytest.mark.slow]


@pytest.mark.parametrize(
    "options",
    [
        {
            **SMALL,
            "preprocessing": {"size": [72, 96]},
            "map": {"sigma": 2},
        },  # the size of the images, so that maps are compared
        {**SMALL, "recipe": "patchcore-paper", "preprocessing": {"size": [51, 51], "crop": [40, 48]}},
        {**SMALL, "sampler": "random", "scorer": {"reweight": False, "squared": True}, "seed": 5},
        {**DEEP, "recipe": "spade", "preprocessing": {"size": [72, 96]}, "scorer": {"images": 3}},
        {**SMALL, "recipe": "padim", "aggregator": {"channels": 20}},
        {**SMALL, "recipe": "dn2"},
        {**SMALL, "recipe": "gaussian-ad"},
    ],
    ids=["maps", "crop", "other components", "spade", "padim", "dn2", "gaussian-ad"],
)
def test_scores_are_those_of_the_detector(options: dict[str, Any], dataset: Path, tmp_path: Path) -> None:
    model = PluginPatchcore(**options)
    data = folder(dataset)
    engine(tmp_path).fit(model=model, datamodule=data)
    predictions = predict(model, data, tmp_path)
    changes = {name: value for name, value in options.items() if name not in ("recipe", "seed")}
    recipe, seed = options.get("recipe", "patchcore"), options.get("seed", 0)
    detector = pp.Detector.from_recipe(recipe, seed=seed, device="cpu", **changes)
    detector.fit(sorted((dataset / "train" / "good").iterdir()))
    assert len(predictions) == 6
    for expected in detector.predict(sorted(predictions)):
        score, heat = predictions[str(expected.path)]
        assert score == pytest.approx(expected.score, rel=1e-4)
        assert (heat is None) == (expected.anomaly_map is None)
        if heat is not None and expected.anomaly_map is not None and heat.shape == (72, 96):
            np.testing.assert_allclose(heat, expected.anomaly_map, rtol=1e-4)


def test_order_and_batches_of_the_training_images_do_not_matter(
    fitted_model: tuple[PluginPatchcore, Path], dataset: Path, tmp_path: Path
) -> None:
    model, _ = fitted_model
    again = PluginPatchcore(**SMALL)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        engine(tmp_path).fit(model=again, datamodule=folder(dataset, batch=3))
    assert model.model.bank is not None
    assert again.model.bank is not None
    assert torch.equal(again.model.bank.origin, model.model.bank.origin)
    torch.testing.assert_close(again.model.bank.vectors, model.model.bank.vectors, rtol=1e-4, atol=1e-5)
    assert again.model.images == model.model.images
    assert sorted(model.model.images) == [str(path) for path in sorted((dataset / "train" / "good").iterdir())]


def test_origin_leads_to_the_image(fitted_model: tuple[PluginPatchcore, Path]) -> None:
    model, _ = fitted_model
    bank = model.model.bank
    assert bank is not None
    image, row, column = bank.origin[7].tolist()
    pixels = prepare(read_image(model.model.images[image]), Preprocessing(size=(48, 64)))
    expected = model.model.patches(pixels[None]).grid[0, row, column]
    torch.testing.assert_close(bank.vectors[7], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # of pixels, without masks
@pytest.mark.parametrize("masks", [True, False])
def test_metrics_threshold_and_pictures_are_those_of_anomalib(
    masks: bool, fitted_model: tuple[PluginPatchcore, Path], dataset: Path, tmp_path: Path
) -> None:
    model = load(fitted_model[1])
    (figures,) = engine(tmp_path).test(model=model, datamodule=folder(dataset, masks=masks))
    assert figures["image_AUROC"] == 1
    # The threshold of anomalib is the lowest score of a defective image, which is not above it: two of three are found.
    assert figures["image_F1Score"] == pytest.approx(0.8)
    fresh: Any = fitted_model[0].post_processor
    assert model.post_processor.image_threshold == fresh.image_threshold
    assert ("pixel_AUROC" in figures) == masks
    assert len(list(tmp_path.rglob("images/**/*.png"))) == 6


def test_a_second_fit_starts_from_nothing(dataset: Path, tmp_path: Path) -> None:
    model = PluginPatchcore(**SMALL)
    data = folder(dataset)
    engine(tmp_path / "1").fit(model=model, datamodule=data)
    first = predict(model, data, tmp_path)
    engine(tmp_path / "2").fit(model=model, datamodule=data)
    second = predict(model, data, tmp_path)
    for path, (score, _) in first.items():
        assert second[path][0] == pytest.approx(score, rel=1e-4)
    assert len(model.model.images) == 10


def test_a_sanity_check_before_the_fit_is_ignored(dataset: Path, tmp_path: Path) -> None:
    trainer = pl.Trainer(max_epochs=1, num_sanity_val_steps=2, default_root_dir=tmp_path, logger=False, **QUIET)
    model = PluginPatchcore(**SMALL)
    trainer.fit(model, datamodule=folder(dataset))
    assert len(model.model.images) == 10


def test_an_unfitted_model_is_refused(dataset: Path, tmp_path: Path) -> None:
    model = PluginPatchcore(**SMALL)
    with pytest.raises(pp.DatasetError, match=r"no training image; call Engine\.fit"):
        engine(tmp_path).validate(model=model, datamodule=folder(dataset))
    with pytest.raises(pp.TensorError, match="not fitted"):
        model(torch.rand(1, 3, 72, 96))
    with pytest.raises(pp.TensorError, match="before exporting it"):
        model.to_onnx(tmp_path)


def test_a_loader_that_repeats_images_is_refused(dataset: Path, tmp_path: Path) -> None:
    data = folder(dataset)
    data.setup()
    sampler = torch.utils.data.RandomSampler(data.train_data, replacement=True, num_samples=15)
    loader = torch.utils.data.DataLoader(data.train_data, 4, sampler=sampler, collate_fn=data.train_data.collate_fn)
    with pytest.raises(pp.DatasetError, match="more images than its dataset has"):
        engine(tmp_path).fit(PluginPatchcore(**SMALL), loader, data.val_dataloader())


def test_automatic_precision_does_not_round_distances(fitted_model: tuple[PluginPatchcore, Path]) -> None:
    model = without_normalisation(load(fitted_model[1])).eval()
    images = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(images)
    assert torch.equal(rounded.pred_score, expected.pred_score)
    assert torch.equal(rounded.anomaly_map, expected.anomaly_map)


@real_images.needed
def test_real_images(tmp_path: Path) -> None:
    model = PluginPatchcore("patchcore-1", backbone="efficientnet-lite0")
    data = MVTecAD(root=real_images.DATA, category="hazelnut_reduced", num_workers=0)
    (figures,) = engine(tmp_path).train(model=model, datamodule=data)
    assert figures["image_AUROC"] >= 0.93
    assert figures["pixel_AUROC"] >= 0.97
    predictions = predict(model, data, tmp_path)
    detector = pp.Detector.from_recipe("patchcore-1", backbone="efficientnet-lite0", device="cpu")
    detector.fit(sorted((real_images.DATA / "hazelnut_reduced" / "train" / "good").iterdir()))
    for expected in detector.predict(sorted(predictions)):
        assert predictions[str(expected.path)][0] == pytest.approx(expected.score, rel=1e-4)
