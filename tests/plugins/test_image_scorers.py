"""Aggregator `global-pool`, scorers `image-knn` and `image-gaussian`, and their recipes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin import cli

HOST = pp.Host(entry_points=False)
TINY: dict[str, Any] = {"preprocessing": {"size": (64, 64)}, "host": HOST, "device": "cpu"}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bank_of(vectors: Tensor, levels: tuple[int, ...] | None = None) -> pp.MemoryBank:
    origin = torch.zeros(len(vectors), 3, dtype=torch.int64)
    origin[:, 0] = torch.arange(len(vectors))
    return pp.MemoryBank(vectors, origin, levels=levels)


def fitted(name: str, bank: pp.MemoryBank, **options: Any) -> Any:
    scorer = HOST.create("scorer", name, **options)
    scorer.fit(bank)
    return scorer


def image_scores(scorer: Any, vectors: Tensor) -> Any:
    scores = scorer(pp.Patches(vectors[:, None, None]))
    assert scores.map is None
    assert scores.nearest is None
    assert scores.image.dtype == torch.float32
    return scores.image.double().numpy()


# global-pool


def test_global_pool_averages_each_map_over_all_positions() -> None:
    maps = [normal(3, 5, 7, 4) + 100, normal(3, 2, 3, 3, seed=1)]
    pooled = HOST.create("aggregator", "global-pool")(maps)
    expected = np.concatenate([each.double().numpy().mean(axis=(2, 3)) for each in maps], axis=1)
    assert pooled.grid.shape == (3, 1, 1, 7)
    assert pooled.levels == (5, 2)
    assert pooled.descriptors is not None
    assert torch.equal(pooled.grid[:, 0, 0], pooled.descriptors)
    np.testing.assert_allclose(pooled.descriptors, expected, rtol=1e-6, atol=1e-6)


def test_global_pool_refuses_wrong_maps() -> None:
    aggregator = HOST.create("aggregator", "global-pool")
    for maps, got in (
        ([], "[]"),
        ([normal(2, 3, 4)], "[[2, 3, 4]]"),
        ([normal(2, 3, 4, 4), normal(1, 3, 4, 4)], "[[2, 3, 4, 4], [1, 3, 4, 4]]"),
    ):
        with pytest.raises(pp.TensorError) as caught:
            aggregator(maps)
        assert str(caught.value) == (
            f"aggregator 'global-pool': expected at least one map, all [B, C, H, W] of one batch, got {got}"
        )


# image-knn


@pytest.mark.parametrize("neighbours", [1, 2, 5, 30, 31])
def test_image_knn_is_the_mean_distance_to_the_k_nearest(neighbours: int) -> None:
    bank, images = normal(30, 16) * 3, normal(9, 16, seed=1) * 3
    bank[11] = bank[4]  # taken twice
    expected = np.sort(cdist(images.double(), bank.double()), axis=1)[:, :neighbours].mean(axis=1)
    got = image_scores(fitted("image-knn", bank_of(bank), neighbours=neighbours), images)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_image_knn_has_two_neighbours_by_default() -> None:
    bank = torch.tensor([[0.0, 0.0], [3.0, 0.0], [100.0, 0.0]])
    assert image_scores(fitted("image-knn", bank_of(bank)), torch.zeros(1, 2)) == 1.5


# image-gaussian


def mahalanobis(bank: Tensor, images: Tensor, levels: tuple[int, ...]) -> Any:
    """The paper's sum of distances, with the covariances inverted as they stand."""
    total, start = np.zeros(len(images)), 0
    for size in levels:
        part = slice(start, start + size)
        normal, test = bank[:, part].double().numpy(), images[:, part].double().numpy()
        covariance, shrinkage = ledoit_wolf(normal)
        assert 0 < shrinkage < 1
        difference = test - normal.mean(axis=0)
        total += np.sqrt(np.einsum("bi,ij,bj->b", difference, np.linalg.inv(covariance), difference))
        start += size
    return total


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("levels", [(40,), (3, 30, 7)])
def test_image_gaussian_is_the_sum_of_mahalanobis_distances(levels: tuple[int, ...], scale: float) -> None:
    mixing = normal(40, 40, seed=2)  # more values than images, correlated
    bank, images = (normal(count, 40, seed=count) @ mixing * scale + 5 for count in (25, 6))
    scorer = fitted("image-gaussian", bank_of(bank, levels))
    np.testing.assert_allclose(image_scores(scorer, images), mahalanobis(bank, images, levels), rtol=1e-4)
    if len(levels) == 1:
        same = image_scores(fitted("image-gaussian", bank_of(bank)), images)
        np.testing.assert_array_equal(same, image_scores(scorer, images))


def test_image_gaussian_restores_levels_from_state() -> None:
    bank = bank_of(normal(10, 9), (2, 3, 4))
    scorer, restored = fitted("image-gaussian", bank), HOST.create("scorer", "image-gaussian")
    state = scorer.state()
    assert {name: tuple(each.shape) for name, each in state.items()} == {
        "mean.0": (2,),
        "factor.0": (2, 2),
        "mean.1": (3,),
        "factor.1": (3, 3),
        "mean.2": (4,),
        "factor.2": (4, 4),
    }
    restored.restore(bank_of(normal(10, 9)), state)
    images = normal(4, 9, seed=1)
    np.testing.assert_array_equal(image_scores(restored, images), image_scores(scorer, images))


def test_image_gaussian_needs_images_that_vary() -> None:
    for rows in (1, 2):
        with pytest.raises(pp.TensorError, match="P >= 3 images"):
            fitted("image-gaussian", bank_of(normal(rows, 4)))
    same = torch.cat([normal(8, 3), normal(1, 4, seed=1).expand(8, -1)], dim=1)
    with pytest.raises(pp.TensorError, match="the 8 images vary too little in level 2"):
        fitted("image-gaussian", bank_of(same, (3, 4)))
    # Two images, four times: nothing is shrunk, and the rank is one, except for rounding.
    copies = normal(2, 6).double().repeat(4, 1)
    for noise in (0, 1e-6):
        with pytest.raises(pp.TensorError, match="the 8 images vary too little in level 1"):
            fitted("image-gaussian", bank_of(copies + noise * normal(8, 6, seed=1)))


# both


@pytest.mark.parametrize("name", ["image-knn", "image-gaussian"])
def test_patches_by_position_are_refused(name: str) -> None:
    origin = torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(5))
    scorer = fitted(name, bank_of(normal(40, 3)))
    with pytest.raises(pp.TensorError, match="4 x 5; choose aggregator global-pool"):
        HOST.create("scorer", name).fit(pp.MemoryBank(normal(40, 3), origin))
    with pytest.raises(pp.TensorError, match="4 x 5; choose aggregator global-pool"):
        scorer(pp.Patches(normal(2, 4, 5, 3)))


@pytest.mark.parametrize("name", ["image-knn", "image-gaussian"])
def test_wrong_calls_are_refused(name: str) -> None:
    scorer = HOST.create("scorer", name)
    with pytest.raises(pp.TensorError, match=f"scorer '{name}': call fit"):
        scorer(pp.Patches(normal(2, 1, 1, 3)))
    scorer.fit(bank_of(normal(9, 3)))
    with pytest.raises(pp.TensorError, match=r"3 values .* got 4"):
        scorer(pp.Patches(normal(2, 1, 1, 4)))
    with pytest.raises(pp.TensorError, match=r"got \[0, 3\]"):
        scorer.fit(bank_of(normal(0, 3)))


# The recipes, on drawn images


RECIPES = [
    ("dn2", {"name": "resnet18", "layers": ("layer4",), "weights": "random"}),
    ("gaussian-ad", {"name": "resnet18", "layers": ("layer1", "layer2"), "weights": "random"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "backbone"), RECIPES)
def test_saved_detector_predicts_equal_scores(
    recipe: str, backbone: dict[str, Any], dataset: Path, tmp_path: Path
) -> None:
    detector = pp.Detector.from_recipe(recipe, backbone=backbone, **TINY)
    detector.fit(sorted((dataset / "train/good").iterdir()))
    assert len(detector.bank.vectors) == 10
    assert detector.threshold is not None
    detector.save(tmp_path / "model.safetensors")
    loaded = pp.Detector.load(tmp_path / "model.safetensors", device="cpu", host=HOST)
    assert loaded.bank.levels == detector.bank.levels
    images = sorted((dataset / "test/blot").iterdir())
    before, after = detector.predict(images), loaded.predict(images)
    assert [each.score for each in before] == [each.score for each in after]
    assert all(each.anomaly_map is None and each.nearest is None for each in after)


def test_gaussian_ad_has_the_nine_levels_of_the_paper() -> None:
    recipe = pp.Recipe.load("gaussian-ad")
    backbone = HOST.create("backbone", recipe.backbone.name, **{**recipe.backbone.options, "weights": "random"})
    pooled = HOST.create("aggregator", recipe.aggregator.name)(backbone(normal(1, 3, 64, 64)))
    assert pooled.levels == (48, 24, 32, 56, 112, 160, 272, 448, 1792)


def command(*arguments: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["patchcore", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    return int(done.value.code or 0), capsys.readouterr().out


@pytest.mark.slow
def test_commands_work_without_a_map(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out, evaluated = tmp_path / "m.safetensors", tmp_path / "out", tmp_path / "evaluated"
    small = ["--recipe", "dn2", "--backbone", "resnet18", "--set", "backbone.weights=random"]
    small += ["--set", "backbone.layers=layer4,", "--set", "preprocessing.size=64,64", "--device", "cpu"]
    tools: Any = {"monkeypatch": monkeypatch, "capsys": capsys}
    assert command("fit", dataset / "train/good", "--out", model, *small, **tools)[0] == 0
    code, said = command("predict", model, dataset / "test/blot", "--out", out, **tools)
    assert code == 0
    assert "no map" in said
    assert str(out / "results.jsonl") in said
    assert "colours" not in said
    assert [each.name for each in out.iterdir()] == ["results.jsonl"]
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert line["score"] > 0
        assert (line["map"], line["overlay"], line["scale"], line["nearest"]) == (None, None, None, None)
    code, said = command("evaluate", dataset, "--out", evaluated, *small, **tools)
    assert code == 0
    figures = json.loads((evaluated / "metrics.json").read_text())["categories"]["washer"]
    assert (figures["pixel_auroc"], figures["aupro"], figures["bank_rows"]) == (None, None, 10)
    assert figures["image_auroc"] is not None
    page = (evaluated / "report.html").read_text()
    assert "Heat over" not in page
    assert not [each for each in (evaluated / "washer").iterdir() if each.is_dir()]
