"""What is written of each photo that is judged: a line of ``results.jsonl``, and pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy.typing as npt


class NearestLike(Protocol):
    """The normal patch nearest to the most suspicious patch of a photo."""

    @property
    def photo(self) -> str | None: ...  # noqa: D102
    @property
    def x(self) -> int: ...  # noqa: D102
    @property
    def y(self) -> int: ...  # noqa: D102
    @property
    def peak_x(self) -> int: ...  # noqa: D102
    @property
    def peak_y(self) -> int: ...  # noqa: D102
    @property
    def distance(self) -> float: ...  # noqa: D102


class RegionLike(Protocol):
    """A part of a photo whose map is above the threshold."""

    @property
    def x(self) -> int: ...  # noqa: D102
    @property
    def y(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def area(self) -> int: ...  # noqa: D102
    @property
    def peak(self) -> float: ...  # noqa: D102
    @property
    def peak_x(self) -> int: ...  # noqa: D102
    @property
    def peak_y(self) -> int: ...  # noqa: D102
    @property
    def contour(self) -> Sequence[tuple[int, int]]: ...  # noqa: D102


class PredictionLike(Protocol):
    """What is written of a prediction: `Prediction` without the detector and its libraries."""

    @property
    def path(self) -> str | None: ...  # noqa: D102
    @property
    def score(self) -> float: ...  # noqa: D102
    @property
    def anomaly_map(self) -> npt.NDArray[Any] | None: ...  # noqa: D102
    @property
    def threshold(self) -> float | None: ...  # noqa: D102
    @property
    def is_anomalous(self) -> bool | None: ...  # noqa: D102
    @property
    def nearest(self) -> NearestLike | None: ...  # noqa: D102
    @property
    def p_value(self) -> float | None: ...  # noqa: D102
    @property
    def regions(self) -> Sequence[RegionLike]: ...  # noqa: D102


class ResultsWriter:
    """Writes ``results.jsonl`` and the pictures of one run into a folder, photo after photo.

    A context manager. Every line is on disk before the next photo starts, so that a run that breaks off
    leaves all that it had done; a line's pictures are written before the line. An earlier run's
    ``results.jsonl`` in the folder is replaced.

    Parameters
    ----------
    folder
        Where to write; made if it is missing.
    scale
        Values of the anomaly maps drawn as the first and last colour, for the whole run.
    """

    def __init__(self, folder: Path, scale: tuple[float, float]) -> None:
        self.folder = folder
        self.scale = (float(scale[0]), float(scale[1]))
        self._taken: set[str] = set()
        self._lines: IO[str] | None = None

    def __enter__(self) -> ResultsWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lines = (self.folder / "results.jsonl").open("w", encoding="utf-8", newline="\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def write(
        self, prediction: PredictionLike, photo_pixels: npt.NDArray[Any] | None, **extra: object
    ) -> dict[str, Any]:
        """Write one photo's pictures and line, and return the line's record.

        Parameters
        ----------
        prediction
            What was found. Without an anomaly map there are no pictures.
        photo_pixels
            The photo, RGB [H, W, 3] of uint8, uint16 or floating point; without it there is no overlay.
        **extra
            Further entries of the record; they must fit into JSON.

        Returns
        -------
        dict
            ``path, score, p_value, threshold, is_anomalous, map, nearest, regions, overlay, scale`` and `extra`.
            ``map`` and ``overlay`` are paths relative to the folder; ``scale`` is [low, high]; all three may be None.

        Raises
        ------
        ImageError
            If a picture cannot be written.
        TensorError
            If photo and map differ in size.
        ValueError
            If the score is not finite, or the writer is not open.
        """
        if self._lines is None:
            raise ValueError("ResultsWriter: use it in a `with` statement")
        nearest = prediction.nearest
        heat, overlay = self._draw(prediction, photo_pixels)
        record: dict[str, Any] = {
            "path": prediction.path,
            "score": float(prediction.score),
            "p_value": None if prediction.p_value is None else float(prediction.p_value),
            "threshold": None if prediction.threshold is None else float(prediction.threshold),
            "is_anomalous": None if prediction.is_anomalous is None else bool(prediction.is_anomalous),
            "map": heat,
            "nearest": None
            if nearest is None
            else {
                "photo": nearest.photo,
                "x": int(nearest.x),
                "y": int(nearest.y),
                "peak_x": int(nearest.peak_x),
                "peak_y": int(nearest.peak_y),
                "distance": float(nearest.distance),
            },
            "regions": [
                {
                    "box": [region.x, region.y, region.width, region.height],
                    "area": region.area,
                    "peak": float(region.peak),
                    "peak_x": region.peak_x,
                    "peak_y": region.peak_y,
                    "contour": [list(point) for point in region.contour],
                }
                for region in prediction.regions
            ],
            "overlay": overlay,
            "scale": None if heat is None else list(self.scale),
            **extra,
        }
        self._lines.write(json.dumps(record, allow_nan=False) + "\n")
        self._lines.flush()
        return record

    def _draw(self, prediction: PredictionLike, photo: npt.NDArray[Any] | None) -> tuple[str | None, str | None]:
        if prediction.anomaly_map is None:
            return None, None
        # OpenCV is loaded only where something is drawn.
        from . import images, rendering

        name = self._unique_name(prediction.path)
        heat, overlay = f"heat_maps/{name}.png", f"overlays/{name}.png"
        (self.folder / heat).parent.mkdir(exist_ok=True)
        images.write_png(self.folder / heat, rendering.heat_map(prediction.anomaly_map, self.scale))
        if photo is None:
            return heat, None
        (self.folder / overlay).parent.mkdir(exist_ok=True)
        drawn = rendering.overlay(photo, prediction.anomaly_map, self.scale)
        images.write_png(self.folder / overlay, drawn)
        return heat, overlay

    def _unique_name(self, path: str | None) -> str:
        """Return ``folder_stem`` of a photo, counted up when another photo has it already."""
        parts = [] if path is None else [Path(path).parent.name, Path(path).stem]
        base = re.sub(r"[^\w.-]+", "_", "_".join(part for part in parts if part))[-100:] or "photo"
        name, count = base, 1
        # Some file systems take A and a for the same name.
        while name.casefold() in self._taken:
            count += 1
            name = f"{base}-{count}"
        self._taken.add(name.casefold())
        return name
