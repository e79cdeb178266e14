"""The prediction for one image, and the normal patch that explains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .calibration import Calibration
from .preprocessing import Geometry, geometry
from .recipes import Preprocessing
from .regions import Region, find_regions


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The normal patch nearest to the most anomalous patch of an image.

    Parameters
    ----------
    image
        Path of the training image; None if it was given as an array.
    x, y
        The centre of the normal patch in that image, in its pixels.
    peak_x, peak_y
        The centre of the most anomalous patch in the image, in its pixels.
    distance
        The patch's score.
    number, size
        Number of the training image, and its height and width in pixels.
    box, peak_box
        The areas of the normal and of the anomalous patch in their images: left, top, width, height.

    Examples
    --------
    >>> import numpy as np
    >>> import patchcore_plugin as pp
    >>> changes = {"backbone": {"name": "resnet18", "weights": "random"}, "preprocessing": {"size": (32, 32)}}
    >>> images = list(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    >>> nearest = pp.Detector.from_recipe("patchcore", **changes).fit(images).predict([images[2]])[0].nearest
    >>> nearest.image, nearest.size
    (None, (32, 32))
    """

    image: str | None
    x: int
    y: int
    peak_x: int
    peak_y: int
    distance: float
    number: int
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    peak_box: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one image.

    Parameters
    ----------
    path
        The image's path; None if it was given as an array.
    size
        Its height and width.
    score
        Image score; larger is more anomalous.
    anomaly_map
        float32 [H, W], of the image's own size and orientation; None for methods without maps.
    threshold, is_anomalous
        Threshold of the model, and whether the score exceeds it; None without a threshold.
    nearest
        The normal patch nearest to the most anomalous one; None for methods without such patches.
    p_value
        Conformal p-value: at most this share of good images has such a score; None without held-out scores.
    regions
        Connected parts of the map above its threshold, highest peak first; they do not decide `is_anomalous`.
    pixels
        The decoded image, RGB [H, W, 3] of uint8 or uint16, if asked for.

    Examples
    --------
    >>> import numpy as np
    >>> import patchcore_plugin as pp
    >>> changes = {"backbone": {"name": "resnet18", "weights": "random"}, "preprocessing": {"size": (32, 32)}}
    >>> images = list(np.random.default_rng(0).integers(0, 256, (4, 40, 60, 3), dtype=np.uint8))
    >>> prediction = pp.Detector.from_recipe("patchcore", **changes).fit(images).predict([images[0]])[0]
    >>> prediction.is_anomalous, prediction.anomaly_map.shape
    (False, (40, 60))
    """

    path: str | None
    size: tuple[int, int]
    score: float
    anomaly_map: NDArray[np.float32] | None
    threshold: float | None
    is_anomalous: bool | None
    nearest: Nearest | None
    p_value: float | None = None
    regions: tuple[Region, ...] = ()
    pixels: NDArray[Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def compare(
        cls,
        calibration: Calibration,
        path: str | None,
        size: tuple[int, int],
        score: float,
        anomaly_map: NDArray[np.float32] | None,
        *,
        nearest: Nearest | None = None,
        pixels: NDArray[Any] | None = None,
    ) -> Prediction:
        """Return the prediction for a score and map, compared with the thresholds of a calibration.

        Parameters
        ----------
        calibration
            The thresholds, and the held-out scores for the p-value.
        path
            Path of the image; None for an array.
        size
            Height and width of the image, in pixels.
        score
            Image score.
        anomaly_map
            float32 [H, W]; None for methods without maps.
        nearest
            The normal patch nearest to the most anomalous one.
        pixels
            The decoded image, RGB [H, W, 3], to be kept in the prediction.
        """
        threshold, map_threshold = calibration.threshold, calibration.map_threshold
        regions = () if anomaly_map is None or map_threshold is None else find_regions(anomaly_map, map_threshold)
        return cls(
            path=path,
            size=size,
            score=score,
            anomaly_map=anomaly_map,
            threshold=threshold,
            is_anomalous=None if threshold is None else score > threshold,
            nearest=nearest,
            p_value=calibration.p_value(score),
            regions=regions,
            pixels=pixels,
        )


def nearest_patch(
    shape: Geometry,
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    origin: NDArray[np.int64],
    images: Sequence[Mapping[str, Any]],
    options: Preprocessing,
) -> Nearest:
    """Return the normal patch nearest to the most anomalous patch of an image.

    Parameters
    ----------
    shape
        How the image was prepared.
    scores, rows
        Patch scores and nearest bank rows, [h, w].
    origin
        Training image, row and column of every bank row, [M, 3].
    images
        Path, height and width of every training image.
    options
        How they were prepared.
    """
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    number, normal_row, normal_column = origin[rows[row, column]].tolist()
    image = images[number]
    size = image["height"], image["width"]
    (x, y), box = _cell(geometry(options, size), scores.shape, normal_row, normal_column)
    (peak_x, peak_y), peak_box = _cell(shape, scores.shape, int(row), int(column))
    return Nearest(
        image=image["path"],
        x=x,
        y=y,
        peak_x=peak_x,
        peak_y=peak_y,
        distance=float(scores[row, column]),
        number=number,
        size=size,
        box=box,
        peak_box=peak_box,
    )


def _cell(
    shape: Geometry, grid: tuple[int, ...], row: int, column: int
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Return the centre (x, y) of a grid cell in the image, and the area it covers, in whole pixels."""
    _, _, height, width = shape.crop
    tall, wide = height / grid[0], width / grid[1]
    x, y = shape.to_image((row + 0.5) * tall, (column + 0.5) * wide)
    left, top = shape.to_image(row * tall, column * wide)
    right, bottom = shape.to_image((row + 1) * tall, (column + 1) * wide)
    box = round(left), round(top), max(round(right) - round(left), 1), max(round(bottom) - round(top), 1)
    return (int(x), int(y)), box
