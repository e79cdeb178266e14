"""Images are judged in order, and the next are scored while the caller works on what was found."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from patchcore_plugin.models.fitting.inputs import BATCH, Input
from patchcore_plugin.models.fitting.reading import judge_each

from patchcore_plugin import ImageError, Prediction
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.recipes import Preprocessing

OPTIONS = Preprocessing(size=(8, 8))
WAIT = 30.0
"""Seconds after which a thread that is waited for is taken to be stuck."""


def image(level: int) -> np.ndarray[Any, Any]:
    return np.full((8, 8, 3), level, dtype=np.uint8)


def levels(inputs: Sequence[Input]) -> list[float]:
    return [float(item.tensor.mean()) * 255 for item in inputs]


def predictions(inputs: Sequence[Input], scores: Sequence[float]) -> Iterator[Prediction]:
    for item, score in zip(inputs, scores, strict=True):
        yield Prediction.against(Calibration.without_threshold("none"), item.path, item.shape.image, score, None, None)


def test_the_next_batch_is_scored_while_the_caller_has_one() -> None:
    second = threading.Event()
    calls = []

    def score(inputs: Sequence[Input]) -> list[float]:
        calls.append(threading.current_thread())
        if len(calls) == 2:
            second.set()
        return levels(inputs)

    found = judge_each([image(level) for level in range(3 * BATCH)], OPTIONS, score, predictions, "stop")
    first = next(found)
    assert second.wait(WAIT)
    assert threading.current_thread() not in calls
    scores = [each.score for each in [first, *found] if isinstance(each, Prediction)]
    assert scores == pytest.approx(list(range(3 * BATCH)), abs=1e-3)


def test_whoever_stops_early_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    found = judge_each([image(1)] * (4 * BATCH), OPTIONS, levels, predictions, "stop")
    next(found)
    assert isinstance(found, Iterator)
    found.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before


def test_what_fails_in_the_other_thread_comes_at_its_place() -> None:
    def score(inputs: Sequence[Input]) -> list[float]:
        if max(levels(inputs)) > BATCH:
            raise ArithmeticError("of the second batch")
        return levels(inputs)

    found = judge_each([image(level) for level in range(2 * BATCH)], OPTIONS, score, predictions, "stop")
    for _ in range(BATCH):
        assert isinstance(next(found), Prediction)
    with pytest.raises(ArithmeticError, match="of the second batch"):
        next(found)


def test_errors_keep_their_places_in_a_batch() -> None:
    images: list[Any] = [image(0), "missing.png", image(2)]
    found = list(judge_each(images, OPTIONS, levels, predictions, "skip"))
    assert [type(each) for each in found] == [Prediction, ImageError, Prediction]
    only = list(judge_each(["missing.png"] * 2, OPTIONS, levels, predictions, "skip"))
    assert [type(each) for each in only] == [ImageError, ImageError]
