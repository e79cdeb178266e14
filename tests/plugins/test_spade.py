"""Scorer `pyramid-knn` against brute force, its recipe, and patches in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.models.fitting.buffer import PatchBuffer

HOST = pp.Host(entry_points=False)
IMAGES, HEIGHT, WIDTH, DIMS, DESCRIPTOR = 7, 3, 4, 10, 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bank_of(vectors: Tensor, images: Tensor, keep: Tensor | None = None) -> pp.MemoryBank:
    """Return the bank of patches [P, h, w, D], or of some of their rows."""
    origin = torch.cartesian_prod(*(torch.arange(length) for length in vectors.shape[:3]))
    rows = torch.arange(len(origin)) if keep is None else keep
    return pp.MemoryBank(vectors.flatten(0, 2)[rows], origin[rows], descriptors=images)


def brute_force(bank: pp.MemoryBank, patches: pp.Patches, count: int) -> tuple[Any, Any, Any]:
    """Sections 3.2 and 3.3 as they are written, in float64, one image at a time."""
    assert patches.descriptors is not None
    assert bank.descriptors is not None
    grid, image = patches.grid.double().numpy(), bank.origin[:, 0].numpy()
    apart = cdist(patches.descriptors.double(), bank.descriptors.double())
    scores, maps, rows = [], [], []
    for place, distances in enumerate(apart):
        similar = distances.argsort(kind="stable")[:count]
        gallery = np.flatnonzero(np.isin(image, similar))
        to_gallery = cdist(grid[place].reshape(-1, grid.shape[-1]), bank.vectors.double().numpy()[gallery])
        scores.append(distances[similar].mean())
        maps.append(to_gallery.min(axis=1).reshape(grid.shape[1:3]))
        rows.append(gallery[to_gallery.argmin(axis=1)].reshape(grid.shape[1:3]))
    return np.array(scores), np.array(maps), np.array(rows)


def fitted(bank: pp.MemoryBank, images: int) -> Any:
    scorer = HOST.create("scorer", "pyramid-knn", images=images)
    scorer.fit(bank)
    return scorer


def example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, pp.Patches]:
    """Return patches and descriptors of images that keep to themselves, and four others, some in between."""
    apart = torch.arange(IMAGES)[:, None] * torch.ones(DESCRIPTOR)
    vectors = normal(IMAGES, HEIGHT, WIDTH, DIMS).to(dtype)
    images = apart + 0.1 * normal(IMAGES, DESCRIPTOR, seed=1)
    grid = normal(4, HEIGHT, WIDTH, DIMS, seed=2).to(dtype)
    return vectors, images, pp.Patches(grid, images[[1, 5, 0, 3]] + 0.4)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("compared", [1, 3, 7, 50])
def test_scores_equal_brute_force_in_float64(compared: int, dtype: torch.dtype, shuffled: bool) -> None:
    vectors, images, patches = example(dtype)
    keep = torch.randperm(IMAGES * HEIGHT * WIDTH, generator=torch.Generator().manual_seed(3)) if shuffled else None
    bank = bank_of(vectors, images, keep)
    scorer = fitted(bank, compared)
    image, anomaly_map, rows = brute_force(bank, patches, compared)
    for _ in range(2):  # what is kept from the first call must not change the second
        got = scorer(patches)
        np.testing.assert_allclose(got.image, image, rtol=1e-6)
        np.testing.assert_allclose(got.map, anomaly_map, rtol=1e-6)
        np.testing.assert_array_equal(got.nearest, rows)
    if compared < IMAGES:
        assert (anomaly_map > brute_force(bank, patches, IMAGES)[1]).any()


@pytest.mark.parametrize("compared", [2, 3])
def test_ties_go_to_the_lowest_row_and_image(compared: int) -> None:
    vectors = normal(1, HEIGHT, WIDTH, DIMS).repeat(3, 1, 1, 1)
    vectors[:, :, 1] = vectors[:, :, :1].squeeze(2)
    images = torch.tensor([[1.0], [-1.0], [1.0]])  # all are as far from 0
    keep = torch.arange(3 * HEIGHT * WIDTH).flip(0)  # so that the lowest row is of the last image
    bank = bank_of(vectors, images, keep)
    patches = pp.Patches(vectors[:1] + 1, torch.zeros(1, 1))
    got = fitted(bank, compared)(patches)
    _, anomaly_map, rows = brute_force(bank, patches, compared)
    np.testing.assert_array_equal(got.nearest, rows)
    np.testing.assert_allclose(got.map, anomaly_map, rtol=1e-6)
    assert bank.origin[got.nearest.flatten(), 0].unique().tolist() == [compared - 1]


def test_only_nearest_galleries_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, images, patches = example()
    scorer = fitted(bank_of(vectors, images), 2)
    searched: list[int] = []
    search = scorer._search

    def counted(gallery: int, queries: Tensor) -> Any:
        searched.append(gallery)
        return search(gallery, queries)

    monkeypatch.setattr(scorer, "_search", counted)
    assert patches.descriptors is not None
    scorer(pp.Patches(patches.grid[[0, 0]], patches.descriptors[[0, 0]]))
    assert searched == [1, 2]


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float32, 2), (torch.float16, 0)])
def test_searches_of_half_precision_banks_are_not_cached(dtype: torch.dtype, kept: int) -> None:
    vectors, images, patches = example(dtype)
    scorer = fitted(bank_of(vectors, images), 2)
    assert patches.descriptors is not None
    scorer(pp.Patches(patches.grid[:1], patches.descriptors[:1]))
    assert len(scorer._searches) == kept


def test_wrong_calls_are_refused() -> None:
    vectors, images, patches = example()
    bank = bank_of(vectors, images)
    scorer = HOST.create("scorer", "pyramid-knn")
    with pytest.raises(pp.TensorError, match="call fit"):
        scorer(patches)
    with pytest.raises(pp.TensorError, match="expected image descriptors"):
        scorer.fit(pp.MemoryBank(bank.vectors, bank.origin))
    with pytest.raises(pp.TensorError, match="training image 2; use sampler all"):
        scorer.fit(bank_of(vectors, images, keep=torch.arange(2 * HEIGHT * WIDTH)))
    scorer.fit(bank)
    with pytest.raises(pp.TensorError, match="expected image descriptors"):
        scorer(pp.Patches(patches.grid))
    assert patches.descriptors is not None
    with pytest.raises(pp.TensorError, match=r"10 and descriptors of 6 values .* got 9 and 5"):
        scorer(pp.Patches(patches.grid[..., :9], patches.descriptors[:, :5]))


# The recipe


def detector(**options: Any) -> pp.Detector:
    return pp.Detector.from_recipe(
        "spade",
        backbone={"name": "resnet18", "layers": ("layer1", "layer2", "layer3", "layer4"), "weights": "random"},
        preprocessing={"size": (64, 64)},
        host=HOST,
        device="cpu",
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_saved_detector_predicts_equal_scores(precision: str, dataset: Path, tmp_path: Path) -> None:
    made = detector(aggregator={"precision": precision}, scorer={"images": 3})
    made.fit(sorted((dataset / "train/good").iterdir()))
    assert made.bank.vectors.dtype == {"fp32": torch.float32, "fp16": torch.float16}[precision]
    assert made.bank.vectors.shape == (10 * 16 * 16, 64 + 128 + 256)
    assert made.bank.descriptors is not None
    assert made.bank.descriptors.shape == (10, 512)
    made.save(tmp_path / "model.safetensors")
    loaded = pp.Detector.load(tmp_path / "model.safetensors", device="cpu", host=HOST)
    images = sorted((dataset / "test/blot").iterdir())
    before, after = made.predict(images), loaded.predict(images)
    for a, b in zip(before, after, strict=True):
        assert a.score == b.score
        assert a.anomaly_map is not None
        assert b.anomaly_map is not None
        np.testing.assert_array_equal(a.anomaly_map, b.anomaly_map)
        assert a.nearest == b.nearest
        assert a.nearest is not None


@pytest.mark.slow
def test_half_precision_changes_maps_by_rounding_only(dataset: Path) -> None:
    images = sorted((dataset / "train/good").iterdir())
    single, half = (
        detector(aggregator={"precision": precision}).fit(images[:6]).predict(images[6:])
        for precision in ("fp32", "fp16")
    )
    for a, b in zip(single, half, strict=True):
        assert a.anomaly_map is not None
        assert b.anomaly_map is not None
        assert not np.array_equal(a.anomaly_map, b.anomaly_map)
        np.testing.assert_allclose(a.anomaly_map, b.anomaly_map, atol=2e-3 * float(a.anomaly_map.max()))


@pytest.mark.parametrize("scorer", ["knn", "pyramid-knn"])
def test_distance_of_images_in_the_bank_is_zero_in_half_precision(scorer: str) -> None:
    maps = [normal(5, 6, 8, 8), normal(5, 4, 4, 4, seed=1), normal(5, 3, 2, 2, seed=2)]
    patches = HOST.create("aggregator", "average-pool", image="last", precision="fp16")(maps)
    assert patches.grid.dtype == torch.float16
    assert patches.descriptors is not None
    made = HOST.create("scorer", scorer)
    made.fit(bank_of(patches.grid, patches.descriptors))
    scores = made(patches)
    assert scores.map is not None
    assert scores.map.max() == 0


def test_bank_of_all_rows_is_not_copied() -> None:
    patches = pp.Patches(normal(2, HEIGHT, WIDTH, DIMS))
    buffer = PatchBuffer(3 * HEIGHT * WIDTH, patches)
    buffer.add(patches)
    vectors = buffer.vectors()
    everything = buffer.bank(torch.arange(len(vectors))).vectors
    assert everything.data_ptr() == vectors.data_ptr()
    turned = buffer.bank(torch.arange(len(vectors)).flip(0)).vectors
    assert torch.equal(turned, vectors.flip(0))
