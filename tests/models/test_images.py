"""Images read ahead by threads: order, errors, and bounded memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
        with budget.reserve(count):
            with lock:
                in_use += count
                highest = max(highest, in_use)
            time.sleep(0.001)
            with lock:
                in_use -= count

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, [30, 50, 20, 70, 10, 100, 40] * 12, timeout=WAIT))
    assert 50 < highest <= 100
    assert in_use == 0


def test_one_larger_reservation_is_admitted_alone() -> None:
    budget = ByteBudget(100)
    admitted, release = threading.Event(), threading.Event()

    def work() -> None:
        with budget.reserve(1000):
            admitted.set()
            assert release.wait(WAIT)

    large = threading.Thread(target=work)
    with budget.reserve(1):
        large.start()
        assert not admitted.wait(0.05)
    assert admitted.wait(WAIT)
    small = threading.Event()

    def wait() -> None:
        with budget.reserve(1):
            small.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not small.wait(0.05)
    release.set()
    assert small.wait(WAIT)
    large.join(WAIT)
    waiting.join(WAIT)


def test_a_failure_returns_its_bytes() -> None:
    budget = ByteBudget(10)
    with pytest.raises(ValueError, match="fails"), budget.reserve(10):
        raise ValueError("fails")
    with budget.reserve(10):
        pass


@pytest.mark.parametrize("kind", ["array", "file"])
def test_images_reserve_the_bytes_of_their_pixels(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixels of a file are known from its header, before it is decoded."""
    reserved: list[int] = []

    class Recorder(ByteBudget):
        def __init__(self, limit: int) -> None:
            assert limit == IN_FLIGHT
            super().__init__(limit)

        def reserve(self, count: int) -> Any:
            reserved.append(count)
            return super().reserve(count)

    monkeypatch.setattr(module, "ByteBudget", Recorder)
    (path,) = tiny.write(tmp_path, 1)
    (tmp_path / "broken.png").write_bytes(b"not an image")
    images: list[Any] = [tiny.draw(0)] if kind == "array" else [path, tmp_path / "broken.png"]
    list(ImageReader(OPTIONS, "skip").batches(images))
    assert sorted(reserved) == sorted([40 * 48 * BYTES_PER_PIXEL, 0][: len(images)])


def test_readers_follow_the_cpus_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6}, raising=False)
    assert reader_count() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert reader_count() == 1
