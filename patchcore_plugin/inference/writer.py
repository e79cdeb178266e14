"""Results of a run: a line of ``results.jsonl`` for each image, and its pictures."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from patchcore_plugin.data.atomic import delete_unfinished
from patchcore_plugin.data.datasets.files import PICTURES, RESULTS
from patchcore_plugin.errors import ResultsError

if TYPE_CHECKING:
    from patchcore_plugin.data.types import Rgb
    from patchcore_plugin.models.prediction import Nearest, Prediction
    from patchcore_plugin.models.regions import Region

Explain: TypeAlias = "Callable[[Prediction], Rgb | None]"
"""Returns the explanation picture of a prediction, or None; see `patchcore_plugin.inference.ExplanationPictures`."""

MAX_CHARACTERS, MAX_BYTES = 100, 200
"""Limits of a picture's name, which is shortened at its start. File systems allow 255 bytes or characters."""


class ResultsWriter:
    """Writes ``results.jsonl`` and the pictures of a run into a folder.

    A context manager. Each image's pictures are written before its line, and each line is flushed, so that an
    interrupted run keeps everything that it had finished. Entering the context replaces the ``results.jsonl`` of an
    earlier run, unless `append` is set.

    Parameters
    ----------
    folder
        Output folder; created if missing.
    scale
        Map values drawn in the first and the last colour, for the whole run.
    append
        Whether to append to an existing ``results.jsonl`` and to force each line onto the disk (fsync).
    explain
        Returns the explanation picture of a defective image.

    Raises
    ------
    ResultsError
        On entering, if the folder has the ``results.jsonl`` of a watch and `append` is not set.

    Examples
    --------
    >>> import tempfile
    >>> from patchcore_plugin import Prediction
    >>> verdict = {"score": 0.5, "threshold": 1.0, "is_anomalous": False}
    >>> prediction = Prediction(path="parts/1.png", size=(20, 30), anomaly_map=None, nearest=None, **verdict)
    >>> with tempfile.TemporaryDirectory() as folder, ResultsWriter(Path(folder), (0.0, 1.0)) as writer:
    ...     record = writer.write(prediction)
    >>> record["path"], record["width"], record["is_anomalous"]
    ('parts/1.png', 30, False)
    """

    def __init__(
        self, folder: Path, scale: tuple[float, float], *, append: bool = False, explain: Explain | None = None
    ) -> None:
        self.folder = folder
        self.scale = (float(scale[0]), float(scale[1]))
        self.append = append
        self._explain = explain
        self._name_counts: dict[str, int] = {}
        self._lines: IO[str] | None = None

    def __enter__(self) -> ResultsWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.append:
            _require_no_watch(self.folder / RESULTS)
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

    def write(self, prediction: Prediction, *, name: str | None = None, **extra: object) -> dict[str, Any]:
        """Write the pictures and the line of one image.

        Parameters
        ----------
        prediction
            Without an anomaly map there are no pictures; without ``pixels`` there is only the heat map.
        name
            File name of the pictures, without suffix; made of the image's path by default. Names already used in this
            run get a number.
        **extra
            Additional or replaced entries of the record; must be JSON-serialisable.

        Returns
        -------
        dict
            The record: ``path, width, height, score, p_value, threshold, is_anomalous, map, nearest, regions, overlay,
            why, scale`` and `extra`. ``map``, ``overlay`` and ``why`` (the explanation) are paths relative to the
            folder, ``scale`` is [low, high]; each of them may be None.

        Raises
        ------
        ImageError
            If a picture cannot be written.
        TensorError
            If pixels and anomaly map differ in size.
        ValueError
            If the score is not finite, or the writer is used outside its context.
        """
        self._open_lines()
        pictures = self._write_pictures(prediction, name)
        record: dict[str, Any] = {
            "path": prediction.path,
            "width": prediction.size[1],
            "height": prediction.size[0],
            "score": float(prediction.score),
            "p_value": None if prediction.p_value is None else float(prediction.p_value),
            "threshold": None if prediction.threshold is None else float(prediction.threshold),
            "is_anomalous": None if prediction.is_anomalous is None else bool(prediction.is_anomalous),
            "map": pictures.get("map"),
            "nearest": None if prediction.nearest is None else _nearest_entry(prediction.nearest),
            "regions": [_region_entry(region) for region in prediction.regions],
            "overlay": pictures.get("overlay"),
            "why": pictures.get("why"),
            "scale": list(self.scale) if pictures else None,
            **extra,
        }
        self.write_record(record)
        return record

    def write_record(self, record: Mapping[str, object]) -> None:
        """Write a line with any JSON-serialisable content.

        Raises
        ------
        ValueError
            If a number is not finite, or the writer is used outside its context.
        """
        lines = self._open_lines()
        lines.write(json.dumps(record, allow_nan=False) + "\n")
        lines.flush()
        if self.append:
            os.fsync(lines.fileno())

    def _open_lines(self) -> IO[str]:
        if self._lines is None:
            raise ValueError("ResultsWriter: use it in a `with` statement")
        return self._lines

    def _write_pictures(self, prediction: Prediction, name: str | None) -> dict[str, str]:
        """Draw and write the pictures; return their paths by the names of their entries in the record."""
        if prediction.anomaly_map is None:
            return {}
        # Imported here because only drawing needs OpenCV.
        from patchcore_plugin.data.images import write_png

        from . import rendering

        pictures: dict[str, Rgb | None] = {"map": rendering.heat_map(prediction.anomaly_map, self.scale)}
        if prediction.pixels is not None:
            heat = rendering.overlay(prediction.pixels, prediction.anomaly_map, self.scale)
            pictures["overlay"] = rendering.draw_regions(heat, prediction.regions)
            if prediction.is_anomalous and self._explain is not None:
                pictures["why"] = self._explain(prediction)
        name = self._unique_name(picture_name(prediction.path) if name is None else name)
        paths = {}
        for kind, picture in pictures.items():
            if picture is not None:
                paths[kind] = f"{PICTURES[kind]}/{name}.png"
                (self.folder / PICTURES[kind]).mkdir(exist_ok=True)
                write_png(self.folder / paths[kind], picture)
        return paths

    def _unique_name(self, name: str) -> str:
        """Return a plain file name, numbered if another image of this run has the same."""
        # Some file systems treat upper and lower case, or composed and decomposed letters, as equal.
        plain = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name))
        # A leading dot would hide the file.
        base = plain[-MAX_CHARACTERS:].encode()[-MAX_BYTES:].decode(errors="ignore").lstrip(".") or "image"
        unique, count = base, self._name_counts.get(base.casefold(), 1)
        while unique.casefold() in self._name_counts:
            count += 1
            unique = f"{base}-{count}"
        self._name_counts[base.casefold()] = count
        self._name_counts.setdefault(unique.casefold(), 1)
        return unique


def picture_name(path: str | None) -> str:
    """Return the name of an image's pictures: its folder and stem, and the number of a video frame.

    Examples
    --------
    >>> picture_name("line/good/1.png"), picture_name("line/video.mp4#120")
    ('good_1', 'line_video_120')
    """
    if path is None:
        return ""
    image = PurePath(path)
    frame = image.suffix.partition("#")[2]
    return "_".join(part for part in (image.parent.name, image.stem, frame) if part not in ("", ".."))


def _nearest_entry(nearest: Nearest) -> dict[str, Any]:
    return {
        "image": nearest.image,
        "x": int(nearest.x),
        "y": int(nearest.y),
        "peak_x": int(nearest.peak_x),
        "peak_y": int(nearest.peak_y),
        "distance": float(nearest.distance),
    }


def _region_entry(region: Region) -> dict[str, Any]:
    return {
        "box": [region.x, region.y, region.width, region.height],
        "area": region.area,
        "peak": float(region.peak),
        "peak_x": region.peak_x,
        "peak_y": region.peak_y,
        "contour": [list(point) for point in region.contour],
    }


def _require_no_watch(file: Path) -> None:
    """Raise if a watch wrote the file: it is the watch's only record of its images."""
    try:
        with file.open(encoding="utf-8") as lines:
            first = json.loads(lines.readline())
    except (OSError, ValueError):
        return
    if isinstance(first, dict) and "mtime_ns" in first:
        raise ResultsError(f"{file}: written by a watch and would be overwritten; choose another output folder")
