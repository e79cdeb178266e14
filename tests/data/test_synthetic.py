from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchcore_plugin.data.datasets import load_categories, load_category, training_images
from patchcore_plugin.data.images import read_image, read_mask
from patchcore_plugin.data.synthetic import CATEGORY, DEFECTS, draw_dataset
from patchcore_plugin.data.synthetic.camera import Line
from patchcore_plugin.errors import DatasetError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("drawn"), train=6, good=3)


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.png")
    }


def test_the_layout_is_that_of_a_category(drawn: Path) -> None:
    category = load_category(drawn)
    assert category.name == drawn.name == CATEGORY
    assert [image.name for image in category.train] == [f"{i:03}.png" for i in range(6)]
    kinds = [image.kind for image in category.test]
    assert {kind: kinds.count(kind) for kind in kinds} == {"good": 3, **dict.fromkeys(DEFECTS, 4)}
    assert all((image.mask is not None) == image.is_anomalous for image in category.test)
    assert load_categories(drawn.parent) == [category]
    assert training_images([drawn]) == list(category.train)


def test_defects_are_of_at_least_five_kinds() -> None:
    assert len(set(DEFECTS)) == len(DEFECTS) >= 5


def test_defects_are_neither_specks_nor_half_the_picture(drawn: Path) -> None:
    for image in load_category(drawn).test:
        if image.mask is not None:
            mask = read_mask(image.mask)
            assert mask.shape == read_image(image.path).shape[:2] == (256, 256)
            assert 0.002 < mask.mean() < 0.05, image.path


def test_images_differ_but_are_of_one_product(drawn: Path) -> None:
    images = [read_image(path).astype(np.float64) for path in load_category(drawn).train]
    for index, image in enumerate(images):
        for other in images[:index]:
            assert 2 < np.abs(image - other).mean() < 30
    assert len({round(image.mean(), 3) for image in images}) == len(images)


@pytest.fixture(scope="module")
def line() -> Line:
    return Line(256)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("kind", DEFECTS)
def test_a_mask_covers_what_differs_from_a_sound_twin(line: Line, kind: str, index: int, seed: int) -> None:
    twin, nothing = line.image(np.random.default_rng(seed), "good", 0)
    image, mask = line.image(np.random.default_rng(seed), kind, index)
    assert not nothing.any()
    assert set(np.unique(mask)) == {0, 255}
    changed = np.abs(image.astype(int) - twin).max(axis=2)
    # Noise is stronger in bright pixels, so that it differs a little where a defect darkens.
    assert np.median(changed[mask > 0]) > (0 if kind == "misprint" else 20)
    assert changed[mask > 0].mean() > 30
    # The shadow of a part with a chip lies beside the chip.
    reach = np.ones((31, 31) if kind == "chip" else (5, 5), np.uint8)
    assert changed[cv2.dilate(mask, reach) == 0].max() <= 12
    assert (changed[mask == 0] > 12).sum() < 0.7 * (mask > 0).sum()


def test_a_good_part_has_the_same_nuisance_as_a_bad_one(line: Line) -> None:
    """What tells a bad image from a good one is the defect alone."""
    rng = np.random.default_rng(0)
    good = np.array([line.image(rng, "good", 0)[0].mean() for _ in range(12)])
    bad = np.array([line.image(rng, "scratch", 0)[0].mean() for _ in range(12)])
    assert abs(good.mean() - bad.mean()) < 2 * max(good.std(), bad.std())


def test_the_seed_decides_every_pixel(tmp_path: Path) -> None:
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


def test_drawing_again_replaces_and_never_mixes(tmp_path: Path) -> None:
    draw_dataset(tmp_path, seed=1, train=2, good=1, defective=1, size=64)
    root = draw_dataset(tmp_path, seed=2, train=2, good=1, defective=1, size=64)
    fresh = draw_dataset(tmp_path / "fresh", seed=2, train=2, good=1, defective=1, size=64)
    assert digests(root) == digests(fresh)
    with pytest.raises(DatasetError, match=r"synthetic-parts: holds other images, such as .*001\.png; choose an"):
        draw_dataset(tmp_path, train=1, good=1, defective=1, size=64)
    assert digests(root) == digests(fresh)


@pytest.mark.parametrize("numbers", [{"size": 63}, {"train": 0}, {"good": 0}, {"defective": 0}, {"train": -1}])
def test_numbers_that_are_too_small_are_told(tmp_path: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match=r"^cannot draw .* use at least 1 of each and 64 pixels$"):
        draw_dataset(tmp_path, **numbers)
    assert not list(tmp_path.iterdir())
