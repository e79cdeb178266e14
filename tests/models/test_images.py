"""Images read ahead by threads: order, errors, and bounded memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

import patchcore_plugin as pp
from patchcore_plugin.models import images as module
from patchcore_plugin.models.images import (
    BATCH,
    BYTES_PER_PIXEL,
    IN_FLIGHT,
    ByteBudget,
    ImageReader,
    PreparedImage,
    reader_count,
    stack,
)
from patchcore_plugin.models.recipes import Preprocessing
from tests.models import tiny

OPTIONS = Preprocessing(size=(8, 8))
WAIT = 30.0
"""Seconds after which a thread counts as stuck."""


def grey(level: int) -> np.ndarray[Any, Any]:
    return np.full((8, 8, 3), level, dtype=np.uint8)


def level(item: PreparedImage | pp.ImageError) -> int:
    assert isinstance(item, PreparedImage)
    return round(float(item.tensor.mean()) * 255)


def test_batches_are_in_order() -> None:
    batches = list(ImageReader(OPTIONS).batches(grey(number) for number in range(2 * BATCH + 3)))
    assert [len(batch) for batch in batches] == [BATCH, BATCH, 3]
    assert [level(item) for batch in batches for item in batch] == list(range(2 * BATCH + 3))
    assert list(ImageReader(OPTIONS).batches([])) == []


def test_an_image_has_path_geometry_and_what_is_asked_for(tmp_path: Path) -> None:
    (path,) = tiny.write(tmp_path, 1)
    (plain,) = next(ImageReader(OPTIONS).batches([path]))
    assert isinstance(plain, PreparedImage)
    assert (plain.path, plain.shape.image, plain.tensor.shape) == (str(path), (40, 48), (3, 8, 8))
    assert (plain.thumbnail, plain.pixels) == (None, None)
    ((array,),) = ImageReader(OPTIONS, thumbnails=True, keep_pixels=True).batches([tiny.draw(0)])
    assert isinstance(array, PreparedImage)
    assert array.path is None
    assert array.thumbnail is not None
    assert np.array_equal(array.pixels, tiny.draw(0))  # type: ignore[arg-type]
    assert stack([array, array]).shape == (2, 3, 8, 8)


def test_errors_keep_their_places() -> None:
    images: list[Any] = [grey(0), "missing.png", grey(2)]
    (batch,) = ImageReader(OPTIONS, "skip").batches(images)
    assert [type(item) for item in batch] == [PreparedImage, pp.ImageError, PreparedImage]
    assert isinstance(batch[1], pp.ImageError)
    assert batch[1].path == "missing.png"


def test_an_error_that_stops_comes_after_the_images_before_it() -> None:
    batches = ImageReader(OPTIONS).batches([grey(0), grey(1), "missing.png", grey(3)])
    assert [level(item) for item in next(batches)] == [0, 1]
    with pytest.raises(pp.ImageError, match=r"missing\.png"):
        next(batches)


def test_images_are_requested_as_they_are_needed() -> None:
    requested = 0

    def endless() -> Iterator[np.ndarray[Any, Any]]:
        nonlocal requested
        while True:
            requested += 1
            yield grey(requested % 256)

    batches = ImageReader(OPTIONS).batches(endless())
    next(batches)
    assert requested <= 3 * BATCH
    batches.close()  # type: ignore[attr-defined]


def test_stopping_early_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    batches = ImageReader(OPTIONS).batches([grey(1)] * (4 * BATCH))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before


# Memory


def test_reservations_together_stay_within_the_budget() -> None:
    budget, lock = ByteBudget(100), threading.Lock()
    in_use = highest = 0

    def work(count: int) -> None:
        nonlocal in_use, highest
        budget.acquire(count)
        with lock:
            in_use += count
            highest = max(highest, in_use)
        time.sleep(0.001)
        with lock:
            in_use -= count
        budget.release(count)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, [30, 50, 20, 70, 10, 100, 40] * 12, timeout=WAIT))
    assert 50 < highest <= 100
    assert in_use == 0


def test_one_larger_reservation_is_admitted_alone() -> None:
    budget = ByteBudget(100)
    large_admitted, small_admitted = threading.Event(), threading.Event()

    def acquire(count: int, admitted: threading.Event) -> None:
        budget.acquire(count)
        admitted.set()

    budget.acquire(1)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(acquire, 1000, large_admitted)
        assert not large_admitted.wait(0.05)
        budget.release(1)
        assert large_admitted.wait(WAIT)
        pool.submit(acquire, 1, small_admitted)
        assert not small_admitted.wait(0.05)
        budget.release(1000)
        assert small_admitted.wait(WAIT)


class RecordingBudget(ByteBudget):
    """A budget that lists the reservations, and the most bytes reserved at a time."""

    instances: ClassVar[list[RecordingBudget]] = []

    def __init__(self, limit: int) -> None:
        assert limit == IN_FLIGHT
        super().__init__(LIMIT)
        self.counts: list[int] = []
        self.highest = 0
        self.instances.append(self)

    def acquire(self, count: int) -> None:
        super().acquire(count)
        self.counts.append(count)
        self.highest = max(self.highest, self._reserved)


LIMIT = 3 * 40 * 48 * BYTES_PER_PIXEL
"""Bytes of three images."""


@pytest.fixture
def budgets(monkeypatch: pytest.MonkeyPatch) -> list[RecordingBudget]:
    monkeypatch.setattr(RecordingBudget, "instances", [])
    monkeypatch.setattr(module, "ByteBudget", RecordingBudget)
    return RecordingBudget.instances


def test_images_reserve_the_bytes_of_their_pixels(tmp_path: Path, budgets: list[RecordingBudget]) -> None:
    """All bytes are returned, after errors as well."""
    (path,) = tiny.write(tmp_path, 1)
    (tmp_path / "broken.png").write_bytes(b"not an image")
    images: list[Any] = [path, tiny.draw(0), tmp_path / "broken.png", "missing.png"]
    list(ImageReader(OPTIONS, "skip").batches(images))
    (budget,) = budgets
    assert budget.counts == [40 * 48 * BYTES_PER_PIXEL] * 2 + [0, 0]
    assert budget._reserved == 0


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
def test_the_pixels_of_a_file_are_known_from_its_header(
    suffix: str, tmp_path: Path, budgets: list[RecordingBudget]
) -> None:
    path = tmp_path / f"image{suffix}"
    assert cv2.imwrite(str(path), tiny.draw(0, shape=(20, 30)))
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0")
    list(ImageReader(OPTIONS, "skip").batches([path, tmp_path / "cut.png"]))
    assert budgets[0].counts == [20 * 30 * BYTES_PER_PIXEL, 0]


def test_images_in_flight_stay_within_the_budget(budgets: list[RecordingBudget]) -> None:
    images = [tiny.draw(seed) for seed in range(3 * BATCH)]
    batches = list(ImageReader(OPTIONS).batches(images))
    assert [len(batch) for batch in batches] == [BATCH] * 3
    (budget,) = budgets
    assert len(budget.counts) == 3 * BATCH
    assert budget.highest <= LIMIT


def test_a_large_image_is_read_alone(budgets: list[RecordingBudget]) -> None:
    images = [tiny.draw(0), tiny.draw(1, shape=(200, 200)), tiny.draw(2)]
    (batch,) = ImageReader(OPTIONS).batches(images)
    assert [item.shape.image for item in batch if isinstance(item, PreparedImage)] == [(40, 48), (200, 200), (40, 48)]
    (budget,) = budgets
    assert budget.highest == 200 * 200 * BYTES_PER_PIXEL > LIMIT


def test_batches_with_pixels_are_smaller_for_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_PIXELS", 3 * 40 * 48)
    images = [tiny.draw(seed) for seed in range(7)]
    sizes = [len(batch) for batch in ImageReader(OPTIONS, keep_pixels=True).batches(images)]
    assert sum(sizes) == 7
    assert max(sizes) == 3
    large = [tiny.draw(0, shape=(200, 200))] * 2
    assert [len(batch) for batch in ImageReader(OPTIONS, keep_pixels=True).batches(large)] == [1, 1]
    assert [len(batch) for batch in ImageReader(OPTIONS).batches(images)] == [7]


def test_readers_follow_the_cpus_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6}, raising=False)
    assert reader_count() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert reader_count() == 1


def test_an_image_that_is_none_does_not_end_the_images_silently() -> None:
    images: Any = [grey(0), None, grey(1)]
    with pytest.raises(TypeError):
        list(ImageReader(OPTIONS).batches(images))
