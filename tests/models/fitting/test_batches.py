"""Training images as batches of patches: order, numbers, errors, and patches from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.data.types import OnError
from patchcore_plugin.models.fitting.batches import FeatureBatch, feature_batches, sample_patches
from patchcore_plugin.models.fitting.store import FeatureStore
from patchcore_plugin.models.images import ImageReader
from patchcore_plugin.models.pipeline import Pipeline
from tests.models import tiny

IMAGES = [tiny.draw(seed) for seed in range(20)]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return tiny.pipeline()


def batches(
    pipeline: Pipeline, images: list[Any], held_out: tuple[int, ...] = (), on_error: OnError = "stop", **options: Any
) -> list[FeatureBatch]:
    reader = ImageReader(pipeline.recipe.preprocessing, on_error, thumbnails=True)
    return list(feature_batches(images, pipeline, reader, held_out, **options))


def numbers(batch: FeatureBatch) -> list[int]:
    return [image.number for image in batch.images]


def test_images_are_numbered_in_the_order_given_and_held_out_ones_come_last(pipeline: Pipeline) -> None:
    result = batches(pipeline, IMAGES, (3, 11, 12))
    assert [(len(batch.images), batch.held_out) for batch in result] == [(8, False), (8, False), (1, False), (3, True)]
    assert [number for batch in result[:-1] for number in numbers(batch)] == [
        number for number in range(20) if number not in (3, 11, 12)
    ]
    assert numbers(result[-1]) == [3, 11, 12]
    for batch in result:
        expected = tiny.patches(pipeline, [IMAGES[number] for number in numbers(batch)])
        assert batch.patches is not None
        assert torch.equal(batch.patches.grid, expected.grid)
        assert not batch.from_store


def test_images_have_path_size_and_thumbnail(pipeline: Pipeline, tmp_path: Path) -> None:
    (path,) = tiny.write(tmp_path, 1)
    (batch,) = batches(pipeline, [path, tiny.draw(1, shape=(30, 20))])
    assert [image.path for image in batch.images] == [str(path), None]
    assert [image.size for image in batch.images] == [(40, 48), (30, 20)]
    assert all(image.thumbnail is not None for image in batch.images)


def test_skipped_images_leave_their_number_out(pipeline: Pipeline) -> None:
    images: list[Any] = [*IMAGES[:3], "missing.png", *IMAGES[3:6], "gone.png"]
    (batch,) = batches(pipeline, images, on_error="skip")
    assert numbers(batch) == [0, 1, 2, 4, 5, 6]
    assert [error.path for error in batch.errors] == ["missing.png", "gone.png"]
    (empty,) = batches(pipeline, ["missing.png"], on_error="skip")
    assert (empty.images, empty.patches, len(empty.errors)) == ([], None, 1)


def test_an_error_that_stops_comes_after_the_images_before_it(pipeline: Pipeline) -> None:
    images: list[Any] = [*IMAGES[:10], "missing.png", *IMAGES[10:]]
    result = feature_batches(images, pipeline, ImageReader(pipeline.recipe.preprocessing))
    assert [numbers(next(result)) for _ in range(2)] == [list(range(8)), [8, 9]]
    with pytest.raises(pp.ImageError, match=r"missing\.png"):
        next(result)


def test_patches_on_disk_are_not_extracted_again(pipeline: Pipeline, tmp_path: Path) -> None:
    paths = tiny.write(tmp_path / "images", 13)
    store = FeatureStore(tmp_path / "store", {}, pipeline.device)
    first = batches(pipeline, paths, (2, 5), store=store)
    # One batch is damaged: it is extracted again, in its place.
    files = sorted((tmp_path / "store").iterdir(), key=lambda path: path.stat().st_size)
    files[0].write_bytes(b"")
    tiny.extracted.clear()
    again = batches(pipeline, paths, (2, 5), store=FeatureStore(tmp_path / "store", {}, pipeline.device))
    assert sum(tiny.extracted) == 2
    assert [batch.from_store for batch in first] == [False] * 3
    assert [batch.from_store for batch in again] == [len(batch.images) > 2 for batch in again]
    for old, new in zip(first, again, strict=True):
        assert new.images == old.images
        assert old.patches is not None
        assert new.patches is not None
        assert torch.equal(new.patches.grid, old.patches.grid)


def test_sample_is_the_first_readable_image(pipeline: Pipeline) -> None:
    reader = ImageReader(pipeline.recipe.preprocessing, "skip")
    sample = sample_patches(["missing.png", IMAGES[4], IMAGES[5]], pipeline, reader)
    assert sample is not None
    assert torch.equal(sample.grid, tiny.patches(pipeline, [IMAGES[4]]).grid)
    assert sample_patches(["missing.png"], pipeline, reader) is None
