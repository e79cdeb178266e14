"""Scores of members: on one scale, averaged, and with the nearest patch of the highest one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.models.images import BATCH, ImageReader
from patchcore_plugin.models.look_ahead import one_ahead
from patchcore_plugin.models.member import Member
from patchcore_plugin.models.normalisation import ScoreScale
from patchcore_plugin.models.preprocessing import anomaly_map, geometry
from patchcore_plugin.models.recipes import Map, Preprocessing
from patchcore_plugin.models.scores import ImageScores, score_patches
from patchcore_plugin.models.scoring import combine, normalise, score_batches
from tests.models import tiny

WAIT = 30.0
"""Seconds after which a thread counts as stuck."""
SHAPE = geometry(Preprocessing(size=(32, 32)), (40, 48))


def image_scores(score: float, peak: float | None) -> ImageScores:
    return ImageScores(score, None if peak is None else np.array([[0.0, peak]], dtype=np.float32))


# Scales


@pytest.mark.parametrize(
    ("scores", "peaks", "expected"),
    [
        ([4.0], [3.0], ScoreScale(score=4.0, map=3.0)),
        ([4.0, 1.0, 100.0], [3.0, 2.0, 9.0], ScoreScale(score=4.0, map=3.0)),
        ([4.0, 2.0], [None, None], ScoreScale(score=3.0, map=1.0)),
        ([0.0, 0.0], [0.0, 0.0], ScoreScale(score=1.0, map=1.0)),
        ([], [], ScoreScale(score=1.0, map=1.0)),
    ],
)
def test_the_scale_is_the_median_of_held_out_images(
    scores: list[float], peaks: list[float | None], expected: ScoreScale
) -> None:
    held_out = [image_scores(*values) for values in zip(scores, peaks, strict=True)]
    assert ScoreScale.from_held_out(held_out, "x") == expected


def test_negative_scores_have_no_scale() -> None:
    with pytest.raises(pp.TensorError, match=r"^member 1: .*below 0 \(-2\)"):
        ScoreScale.from_held_out([image_scores(-2.0, None)], "member 1")


def test_a_scale_divides_scores_and_maps() -> None:
    rows = np.zeros((1, 2), dtype=np.int64)
    scaled = ScoreScale(score=2.0, map=4.0).apply(image_scores(6.0, 8.0)._replace(nearest=rows))
    assert scaled.score == 3.0
    assert scaled.map is not None
    assert scaled.map.tolist() == [[0.0, 2.0]]
    assert scaled.map.dtype == np.float32
    assert scaled.nearest is rows
    scores = image_scores(6.0, 8.0)
    assert ScoreScale().apply(scores) is scores


# Averages


def test_the_score_is_the_mean_and_the_map_that_of_members_with_one() -> None:
    first, second = (np.random.default_rng(seed).random((4, 4), dtype=np.float32) for seed in range(2))
    score, full = combine([ImageScores(1.0, first), ImageScores(2.0, None), ImageScores(6.0, second)], SHAPE, Map())
    assert score == 3.0
    expected = (anomaly_map(first, SHAPE, Map()) + anomaly_map(second, SHAPE, Map())) / 2
    np.testing.assert_allclose(full, expected, rtol=1e-4)  # type: ignore[arg-type]
    assert combine([image_scores(1.0, None), image_scores(2.0, None)], SHAPE, Map()) == (1.5, None)


def test_each_member_has_its_scale() -> None:
    pipeline = tiny.pipeline()
    members = [Member(pipeline=pipeline, scale=ScoreScale(score=scale)) for scale in (1.0, 2.0)]
    assert [each.score for each in normalise(members, [image_scores(6.0, None)] * 2)] == [6.0, 3.0]


# Batches


def test_scores_are_on_the_cpu_and_one_record_for_each_image() -> None:
    class Scorer:
        def __call__(self, patches: pp.Patches) -> pp.Scores:
            return pp.Scores(image=torch.tensor([1.0, 2.0]), map=torch.ones(2, 3, 4))

    first, second = score_patches(Scorer(), pp.Patches(torch.zeros(2, 3, 4, 5)))  # type: ignore[arg-type]
    assert (first.score, second.score, second.nearest) == (1.0, 2.0, None)
    assert first.map is not None
    assert first.map.shape == (3, 4)


def test_only_readable_images_are_scored() -> None:
    detector = tiny.detector().fit([tiny.draw(seed) for seed in range(3)])
    images: list[Any] = [tiny.draw(7), "missing.png", tiny.draw(8)]
    reader = ImageReader(detector.recipe.preprocessing, "skip")
    (batch,) = score_batches(detector.members, reader.batches(images))
    assert isinstance(batch.images[1], pp.ImageError)
    assert [[each.score for each in scores] for scores in batch.scores] == [
        [score] for score in tiny.scores(detector, [tiny.draw(7), tiny.draw(8)])
    ]
    (empty,) = score_batches(detector.members, reader.batches(["missing.png"]))
    assert empty.scores == []


def test_the_next_batch_is_scored_while_the_caller_has_one() -> None:
    second = threading.Event()
    threads = []

    def items() -> Iterator[int]:
        for number in range(3):
            threads.append(threading.current_thread())
            if number == 1:
                second.set()
            yield number

    ahead = one_ahead(items())
    assert next(ahead) == 0
    assert second.wait(WAIT)
    assert threading.current_thread() not in threads
    assert list(ahead) == [1, 2]


def test_a_failure_in_the_other_thread_comes_at_its_place() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise ArithmeticError("in the second")

    ahead = one_ahead(items())
    assert next(ahead) == 0
    with pytest.raises(ArithmeticError, match="in the second"):
        next(ahead)


def test_predictions_that_are_not_used_leave_no_thread() -> None:
    detector = tiny.detector().fit([tiny.draw(seed) for seed in range(3)])
    before = set(threading.enumerate())
    predictions = detector.predict_each([tiny.draw(seed) for seed in range(4 * BATCH)])
    assert isinstance(next(predictions), pp.Prediction)
    predictions.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before
