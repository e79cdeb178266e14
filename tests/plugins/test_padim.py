"""The recipe `padim`: on drawn images and, if there, real ones; no patch of a training image is kept."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.kernels.gaussian import packed_size
from patchcore_plugin.models.fitting import strategies
from patchcore_plugin.models.fitting.hold_out import held_out_indices
from patchcore_plugin.models.recipes import Recipe
from tests import real_images
from tests.commands import run_json
from tests.conftest import draw

IMAGES = [draw(seed) for seed in range(24)]


def make(**changes: Any) -> pp.Detector:
    small = {
        "backbone": {"name": "efficientnet-lite0", "layers": ["stage2", "stage3"]},
        "aggregator": {"channels": 20},
        "preprocessing": {"size": [64, 64]},
        "device": "cpu",
    }
    return pp.Detector.from_recipe("padim", **{**small, **changes})


@pytest.fixture(scope="module")
def model() -> pp.Detector:
    return make().fit(IMAGES)


def test_recipe() -> None:
    recipe = Recipe.load("padim")
    assert recipe.backbone.options == {"layers": ["layer1", "layer2", "layer3"]}
    assert recipe.aggregator.options == {"patch_size": 1, "upsample": "nearest", "channels": 100}
    assert (recipe.backbone.name, recipe.sampler.name, recipe.scorer.name) == ("resnet18", "all", "gaussian")
    assert (recipe.preprocessing.size, recipe.preprocessing.crop, recipe.map.sigma) == ((256, 256), None, 4)


def test_defect_is_found(model: pp.Detector) -> None:
    good, bad = model.predict([draw(100), draw(101, defect=True)])
    assert bad.score > good.score
    assert bad.anomaly_map is not None
    y, x = np.unravel_index(int(bad.anomaly_map.argmax()), bad.anomaly_map.shape)
    blot = np.abs(draw(101).astype(int) - draw(101, defect=True)).max(axis=2) > 40
    assert blot[y, x]
    assert bad.nearest is None


def test_model_file_keeps_scores(model: pp.Detector, tmp_path: Path) -> None:
    images = [draw(100), draw(101, defect=True)]
    model.save(tmp_path / "m.safetensors")
    loaded = pp.Detector.load(tmp_path / "m.safetensors", device="cpu")
    assert loaded.threshold == model.threshold
    assert len(loaded.bank.vectors) == 0
    assert loaded.bank.seen == 24 * 16 * 16
    for found, wanted in zip(loaded.predict(images), model.predict(images), strict=True):
        assert found.score == wanted.score
        assert np.array_equal(found.anomaly_map, wanted.anomaly_map)  # type: ignore[arg-type]


def test_threshold_is_that_of_held_out_images(model: pp.Detector) -> None:
    numbers = held_out_indices(24, 0).tolist()
    assert len(numbers) == 3
    others = make().fit([image for number, image in enumerate(IMAGES) if number not in numbers])
    found = [each.score for each in others.predict([IMAGES[number] for number in numbers])]
    # The other detector learned its own held-out images last: the same ones, in another order.
    assert model.threshold == pytest.approx(max(found), rel=1e-5)
    seen = [each.score for each in model.predict([IMAGES[number] for number in numbers])]
    assert max(seen) < max(found)


def test_patches_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AssertionError("a buffer for all patches was made")

    monkeypatch.setattr(strategies, "PatchBuffer", refuse)
    make().fit(IMAGES[:4])
    with pytest.raises(AssertionError, match="a buffer for all patches"):
        make(sampler={"name": "random", "ratio": 1.0}).fit(IMAGES[:4])


def tensor_bytes() -> int:
    """Return the bytes of all tensors that are alive."""
    gc.collect()
    storages = {}
    for each in gc.get_objects():
        if type(each) is Tensor:
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def held(images: int, **changes: Any) -> int:
    """Return how many bytes of tensors there are once all images are read, more than before."""
    before = tensor_bytes()
    most = 0

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal most
        if (stage, done) == ("reading images", total):
            most = tensor_bytes() - before

    make(**changes).fit([IMAGES[number % 24] for number in range(images)], progress=progress)
    return most


@pytest.mark.slow
def test_memory_is_independent_of_the_number_of_images() -> None:
    # Two images are held out of either, so that the last batches are equal.
    few, many = held(11), held(20)
    assert few > 16 * 16 * packed_size(20) * 8
    assert many == few
    assert held(20, scorer="knn") - held(11, scorer="knn") >= 9 * 16 * 16 * 20 * 4


def test_sampler_that_drops_patches_is_refused() -> None:
    with pytest.raises(pp.TensorError, match="--sampler all"):
        make(sampler={"name": "greedy-coreset", "ratio": 0.1}).fit(IMAGES[:8])


@pytest.mark.slow
@real_images.needed
@pytest.mark.parametrize(
    ("category", "image_auroc", "pixel_auroc"), [("hazelnut_reduced", 0.93, 0.98), ("transistor_reduced", 0.93, 0.93)]
)
def test_real_images(category: str, image_auroc: float, pixel_auroc: float, tmp_path: Path) -> None:
    options = ("--set", 'backbone.layers=["stage2","stage3","stage5"]', "--set", "aggregator.patch_size=3")
    command = ("evaluate", real_images.DATA / category, "--recipe", "padim", "--backbone", "efficientnet-lite0")
    figures = run_json(*command, *options, "--out", tmp_path)["categories"][category]
    assert figures["image_auroc"] >= image_auroc
    assert figures["pixel_auroc"] >= pixel_auroc
