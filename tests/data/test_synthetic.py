"""The synthetic data set: layout, variation, masks and determinism."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchcore_plugin.data.datasets import find_training_images, load_categories, load_category
from patchcore_plugin.data.images import read_image, read_mask
from patchcore_plugin.data.synthetic import CATEGORY, DEFECTS, draw_dataset
from patchcore_plugin.data.synthetic.camera import Camera
from patchcore_plugin.errors import DatasetError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("drawn"), train=6, good=3)


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.png")
    }


def test_layout_is_that_of_mvtec(category: Path) -> None:
    loaded = load_category(category)
    assert loaded.name == category.name == CATEGORY
    assert [image.name for image in loaded.train] == [f"{i:03}.png" for i in range(6)]
    kinds = [image.kind for image in loaded.test]
    assert {kind: kinds.count(kind) for kind in kinds} == {"good": 3, **dict.fromkeys(DEFECTS, 4)}
    assert all((image.mask is not None) == image.is_anomalous for image in loaded.test)
    assert load_categories(category.parent) == [loaded]
    assert find_training_images([category]) == list(loaded.train)


def test_defects_are_of_at_least_five_kinds() -> None:
    assert len(set(DEFECTS)) == len(DEFECTS) >= 5


def test_defects_have_realistic_sizes(category: Path) -> None:
    for image in load_category(category).test:
        if image.mask is not None:
            mask = read_mask(image.mask)
            assert mask.shape == read_image(image.path).shape[:2] == (256, 256)
            assert 0.002 < mask.mean() < 0.05, image.path


def test_images_vary_but_show_one_product(category: Path) -> None:
    images = [read_image(path).astype(np.float64) for path in load_category(category).train]
    for index, image in enumerate(images):
        for other in images[:index]:
            assert 2 < np.abs(image - other).mean() < 30
    assert len({round(image.mean(), 3) for image in images}) == len(images)


@pytest.fixture(scope="module")
def camera() -> Camera:
    return Camera(256)


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (0, 1), (1, 2), (1, 3)])
@pytest.mark.parametrize("kind", DEFECTS)
def test_mask_covers_the_difference_to_a_good_twin(camera: Camera, kind: str, index: int, seed: int) -> None:
    twin, empty = camera.take_image(np.random.default_rng(seed), "good", 0)
    image, mask = camera.take_image(np.random.default_rng(seed), kind, index)
    assert not empty.any()
    assert set(np.unique(mask)) == {0, 255}
    changed = np.abs(image.astype(int) - twin).max(axis=2)
    # Noise is stronger in bright pixels, so it changes a little where a defect is dark.
    assert np.median(changed[mask > 0]) > (0 if kind == "misprint" else 20)
    assert changed[mask > 0].mean() > 30
    # A chip changes the shadow next to it, too.
    reach = np.ones((31, 31) if kind == "chip" else (5, 5), np.uint8)
    assert changed[cv2.dilate(mask, reach) == 0].max() <= 12
    assert (changed[mask == 0] > 12).sum() < 0.7 * (mask > 0).sum()


def test_good_and_defective_images_vary_alike(camera: Camera) -> None:
    """Only the defect distinguishes a defective image from a good one."""
    rng = np.random.default_rng(0)
    good = np.array([camera.take_image(rng, "good", 0)[0].mean() for _ in range(12)])
    defective = np.array([camera.take_image(rng, "scratch", 0)[0].mean() for _ in range(12)])
    assert abs(good.mean() - defective.mean()) < 2 * max(good.std(), defective.std())


def test_seed_decides_every_pixel(tmp_path: Path) -> None:
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1]  # type: ignore[index]  # noqa: NPY002
    first, again, other = (
        digests(draw_dataset(tmp_path / name, seed=seed, train=2, good=1, defective=1, size=64))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    assert first.keys() == other.keys()
    images = [name for name in first if "ground_truth" not in name]
    assert all(first[name] != other[name] for name in images)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("size", [64, 97, 320])
def test_other_sizes_and_counts(tmp_path: Path, size: int) -> None:
    root = draw_dataset(tmp_path / "new" / "folder", size=size, train=1, good=1, defective=1)
    category = load_category(root)
    assert (len(category.train), len(category.test)) == (1, 1 + len(DEFECTS))
    for sample in category.test:
        assert read_image(sample.path).shape == (size, size, 3)
        if sample.mask is not None:
            assert read_mask(sample.mask).any()


def test_second_call_replaces_images_and_never_mixes_them(tmp_path: Path) -> None:
    draw_dataset(tmp_path, seed=1, train=2, good=1, defective=1, size=64)
    root = draw_dataset(tmp_path, seed=2, train=2, good=1, defective=1, size=64)
    fresh = draw_dataset(tmp_path / "fresh", seed=2, train=2, good=1, defective=1, size=64)
    assert digests(root) == digests(fresh)
    with pytest.raises(DatasetError, match=r"contains other images, such as .*001\.png"):
        draw_dataset(tmp_path, train=1, good=1, defective=1, size=64)
    assert digests(root) == digests(fresh)


@pytest.mark.parametrize("numbers", [{"size": 63}, {"train": 0}, {"good": 0}, {"defective": 0}, {"train": -1}])
def test_too_small_numbers_are_refused(tmp_path: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match="at least 1 of each and 64 pixels"):
        draw_dataset(tmp_path, **numbers)
    assert not list(tmp_path.iterdir())
