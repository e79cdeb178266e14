"""Scores of all members as predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchcore_plugin.errors import ImageError

from .calibration import Calibration
from .images import PreparedImage, stack
from .look_ahead import one_ahead
from .member import Member
from .prediction import Nearest, Prediction, nearest_patch
from .preprocessing import Geometry, mean_anomaly_map
from .recipes import Map, Preprocessing, Recipe
from .scores import ImageScores


class ScoredBatch(NamedTuple):
    """Images of a batch, errors in the place of unreadable ones, and the members' scores of each readable image."""

    images: list[PreparedImage | ImageError]
    scores: list[tuple[ImageScores, ...]]


def score_batches(
    members: Sequence[Member], batches: Iterable[list[PreparedImage | ImageError]]
) -> Iterator[ScoredBatch]:
    """Yield batches of images with the scores of all members.

    Parameters
    ----------
    members
        The fitted members.
    batches
        Prepared images; errors in the place of unreadable ones.
    """
    for batch in batches:
        yield _score_batch(batch, members)


def _score_batch(batch: list[PreparedImage | ImageError], members: Sequence[Member]) -> ScoredBatch:
    readable = [item for item in batch if isinstance(item, PreparedImage)]
    if not readable:
        return ScoredBatch(batch, [])
    tensor = stack(readable)
    return ScoredBatch(batch, list(zip(*(member.score(tensor) for member in members), strict=True)))


def predictions(
    batches: Iterator[ScoredBatch],
    members: Sequence[Member],
    recipe: Recipe,
    calibration: Calibration,
    training_images: Sequence[Mapping[str, Any]],
) -> Iterator[Prediction | ImageError]:
    """Yield a prediction for each image, or its error if it is unreadable.

    Parameters
    ----------
    batches
        Batches of images with the scores of all members; read one ahead.
    members
        The fitted members.
    recipe
        The recipe of the detector.
    calibration
        The thresholds.
    training_images
        Path, height and width of each training image.
    """
    for batch, batch_scores in one_ahead(batches):
        remaining = iter(batch_scores)
        while batch:
            item = batch.pop(0)  # frees its pixels before the next batch arrives
            if isinstance(item, ImageError):
                yield item
                continue
            scores = normalise(members, next(remaining))
            score, full = combine(scores, item.shape, recipe.map)
            nearest = _nearest(members, scores, item.shape, training_images, recipe.preprocessing)
            yield Prediction.compare(
                calibration, item.path, item.shape.image, score, full, nearest=nearest, pixels=item.pixels
            )


def normalise(members: Sequence[Member], scores: Sequence[ImageScores]) -> list[ImageScores]:
    """Return each member's scores of an image on the common scale.

    Parameters
    ----------
    members
        The fitted members.
    scores
        Each member's scores of the image.
    """
    return [member.scale.apply(member_scores) for member, member_scores in zip(members, scores, strict=True)]


def combine(scores: Sequence[ImageScores], shape: Geometry, options: Map) -> tuple[float, NDArray[np.float32] | None]:
    """Return the mean score and the mean map of an image.

    Parameters
    ----------
    scores
        Normalised scores of each member.
    shape
        How the image was resized and cropped.
    options
        How patch scores are upsampled and blurred.

    Returns
    -------
    score
        Mean of the image scores.
    map
        Mean map of the members that have one, float32 [H, W]; None without such members.
    """
    grids = [member_scores.map for member_scores in scores if member_scores.map is not None]
    full = mean_anomaly_map(grids, shape, options) if grids else None
    return sum(member_scores.score for member_scores in scores) / len(scores), full


def _nearest(
    members: Sequence[Member],
    scores: Sequence[ImageScores],
    shape: Geometry,
    training_images: Sequence[Mapping[str, Any]],
    options: Preprocessing,
) -> Nearest | None:
    """Return the normal patch nearest to the most anomalous patch; None if no member has one."""
    candidates = [
        (float(member_scores.map.max()), -number, member_scores.map, member_scores.nearest)
        for number, member_scores in enumerate(scores)
        if member_scores.map is not None and member_scores.nearest is not None
    ]
    if not candidates:
        return None
    _, number, grid, rows = max(candidates, key=lambda candidate: candidate[:2])
    return nearest_patch(shape, grid, rows, members[-number].fitted.origin, training_images, options)
