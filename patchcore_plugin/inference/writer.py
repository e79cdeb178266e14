"""What is written of each image that is judged: a line of ``results.jsonl``, and pictures."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol

from patchcore_plugin.data.atomic import delete_unfinished
from patchcore_plugin.data.datasets.files import PICTURES, RESULTS
from patchcore_plugin.errors import ResultsError

if TYPE_CHECKING:
    import numpy.typing as npt

    from patchcore_plugin.models.regions import Region


class NearestLike(Protocol):
    """The normal patch nearest to the most suspicious patch of an image."""

    @property
    def image(self) -> str | None: ...  # noqa: D102
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


class PredictionLike(Protocol):
    """What is written of a prediction: `Prediction` without the detector and its libraries."""

    @property
    def path(self) -> str | None: ...  # noqa: D102
    @property
    def size(self) -> tuple[int, int]: ...  # noqa: D102
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
    def regions(self) -> Sequence[Region]: ...  # noqa: D102


JUDGED_AT = "judged_at"
"""Only a watch's records have it: when the image was judged."""
CHARACTERS, BYTES = 100, 200
"""Of a picture's name so much is kept at most, from its end: file systems allow 255 bytes or characters."""


class ResultsWriter:
    """Writes ``results.jsonl`` and the pictures of one run into a folder, image after image.

    A context manager. Every line is on disk before the next image starts, so that a run that breaks off
    leaves all that it had done; a line's pictures are written before the line. An earlier run's
    ``results.jsonl`` in the folder is replaced, unless the new lines are to come after its own. That of a watch, which
    nobody else has, is not: a `ResultsError` says so when the context is entered.

    Parameters
    ----------
    folder
        Where to write; made if it is missing.
    scale
        Values of the anomaly maps drawn as the first and last colour, for the whole run.
    append
        Whether to go on with the ``results.jsonl`` that is there, and to force each line onto the disk.
    why
        Called with the image and the prediction of each defective image: returns a picture that says why, RGB uint8, or
        None; such as `patchcore_plugin.inference.explain.WhyPictures`.
    """

    def __init__(
        self,
        folder: Path,
        scale: tuple[float, float],
        *,
        append: bool = False,
        why: Callable[[npt.NDArray[Any], Any], npt.NDArray[Any] | None] | None = None,
    ) -> None:
        self.folder = folder
        self.scale = (float(scale[0]), float(scale[1]))
        self.append = append
        self._why = why
        self._taken: dict[str, int] = {}
        self._lines: IO[str] | None = None

    def __enter__(self) -> ResultsWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.append:
            _require_no_log(self.folder / RESULTS)
        for pictures in PICTURES.values():
            delete_unfinished(self.folder / pictures)
        self._lines = (self.folder / RESULTS).open("a" if self.append else "w", encoding="utf-8", newline="\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def write(
        self,
        prediction: PredictionLike,
        image_pixels: npt.NDArray[Any] | None,
        *,
        name: str | None = None,
        **extra: object,
    ) -> dict[str, Any]:
        """Write one image's pictures and line, and return the line's record.

        Parameters
        ----------
        prediction
            What was found. Without an anomaly map there are no pictures.
        image_pixels
            The image, RGB [H, W, 3] of uint8, uint16 or floating point; without it there is no overlay.
        name
            What the pictures are called; by default as the image's folder and file. It is counted up where it is taken.
        **extra
            Further entries of the record, or others in their place; they must fit into JSON.

        Returns
        -------
        dict
            ``path, width, height, score, p_value, threshold, is_anomalous, map, nearest, regions, overlay, why, scale``
            and `extra`. ``map``, ``overlay`` and ``why`` are paths relative to the folder, ``scale`` is [low, high];
            all four may be None.

        Raises
        ------
        ImageError
            If a picture cannot be written.
        TensorError
            If image and map differ in size.
        ValueError
            If the score is not finite, or the writer is not open.
        """
        self._open_lines()
        nearest = prediction.nearest
        pictures = self._draw(prediction, image_pixels, name)
        record: dict[str, Any] = {
            "path": prediction.path,
            "width": prediction.size[1],
            "height": prediction.size[0],
            "score": float(prediction.score),
            "p_value": None if prediction.p_value is None else float(prediction.p_value),
            "threshold": None if prediction.threshold is None else float(prediction.threshold),
            "is_anomalous": None if prediction.is_anomalous is None else bool(prediction.is_anomalous),
            "map": pictures.get("map"),
            "nearest": None
            if nearest is None
            else {
                "image": nearest.image,
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
            "overlay": pictures.get("overlay"),
            "why": pictures.get("why"),
            "scale": list(self.scale) if pictures else None,
            **extra,
        }
        self.record(record)
        return record

    def record(self, record: Mapping[str, object]) -> None:
        """Write one line, whatever it says."""
        lines = self._open_lines()
        lines.write(json.dumps(record, allow_nan=False) + "\n")
        lines.flush()
        if self.append:
            os.fsync(lines.fileno())

    def _open_lines(self) -> IO[str]:
        if self._lines is None:
            raise ValueError("ResultsWriter: use it in a `with` statement")
        return self._lines

    def _draw(self, prediction: PredictionLike, image: npt.NDArray[Any] | None, name: str | None) -> dict[str, str]:
        """Write the pictures; return their paths by what they are."""
        if prediction.anomaly_map is None:
            return {}
        # OpenCV is loaded only where something is drawn.
        from patchcore_plugin.data import images as images

        from . import rendering

        drawn: dict[str, npt.NDArray[Any] | None] = {"map": rendering.heat_map(prediction.anomaly_map, self.scale)}
        if image is not None:
            heat = rendering.overlay(image, prediction.anomaly_map, self.scale)
            drawn["overlay"] = rendering.with_regions(heat, prediction.regions)
            if prediction.is_anomalous and self._why is not None:
                drawn["why"] = self._why(image, prediction)
        name = self._unique_name(named_after(prediction.path) if name is None else name)
        written = {}
        for kind, picture in drawn.items():
            if picture is not None:
                written[kind] = f"{PICTURES[kind]}/{name}.png"
                (self.folder / PICTURES[kind]).mkdir(exist_ok=True)
                images.write_png(self.folder / written[kind], picture)
        return written

    def _unique_name(self, wanted: str) -> str:
        """Return a name for a file, counted up when another image has it already."""
        # Some file systems take A and a for the same name, and a letter for the same with its accent beside it.
        plain = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", wanted))
        # With a dot in front it would be hidden.
        base = plain[-CHARACTERS:].encode()[-BYTES:].decode(errors="ignore").lstrip(".") or "image"
        name, count = base, self._taken.get(base.casefold(), 1)
        while name.casefold() in self._taken:
            count += 1
            name = f"{base}-{count}"
        self._taken[base.casefold()] = count
        self._taken.setdefault(name.casefold(), 1)
        return name


def named_after(path: str | None) -> str:
    """Return ``folder_stem`` of an image."""
    parts = [] if path is None else [Path(path).parent.name, Path(path).stem]
    return "_".join(part for part in parts if part not in ("", ".."))


def _require_no_log(file: Path) -> None:
    try:
        with file.open(encoding="utf-8") as lines:
            first = json.loads(lines.readline())
    except (OSError, ValueError):
        return
    if isinstance(first, dict) and JUDGED_AT in first:
        raise ResultsError(f"{file}: the log of a watch, which would be lost; give another folder")
