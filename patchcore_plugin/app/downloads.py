"""The results of a visit as files: one line or row for each photo, and everything with pictures as a zip file."""

from __future__ import annotations

import csv
import io
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from patchcore_plugin.coco import write_coco
from patchcore_plugin.errors import ImageError
from patchcore_plugin.images import read_photo
from patchcore_plugin.result_writer import ResultsWriter

from .visit import Photo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from patchcore_plugin.prediction import Prediction
    from patchcore_plugin.rendering import Rgb

Results: TypeAlias = "Sequence[tuple[Photo, Prediction]]"
Why: TypeAlias = "Callable[[NDArray[Any], Prediction], Rgb | None]"
COLUMNS = ("photo", "verdict", "score", "p_value", "threshold", "regions", "nearest_photo", "nearest_x", "nearest_y")
VERDICTS = {True: "defect", False: "good", None: ""}


def as_lines(results: Results) -> bytes:
    """Return ``results.jsonl``, as `patchcore predict` writes it, without pictures."""
    with tempfile.TemporaryDirectory() as folder:
        with ResultsWriter(Path(folder), (0.0, 1.0)) as writer:
            for _, found in results:
                writer.write(replace(found, anomaly_map=None), None)
        return Path(folder, "results.jsonl").read_bytes()


def as_table(results: Results) -> bytes:
    """Return a row for each photo as CSV in UTF-8, with a byte-order mark, which spreadsheets want."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for _, found in results:
        nearest = found.nearest
        place = ("", "", "") if nearest is None else (_text(nearest.photo or ""), nearest.x, nearest.y)
        row: list[Any] = [_text(found.path or ""), VERDICTS[found.is_anomalous], found.score]
        row += [_number(found.p_value), _number(found.threshold), len(found.regions), *place]
        table.writerow(row)
    return text.getvalue().encode("utf-8-sig")


def write_zip(path: Path, results: Results, scale: tuple[float, float], why: Why | None = None) -> None:
    """Write lines, table, regions as COCO, and pictures on one colour scale into a zip file.

    Parameters
    ----------
    path
        Where to.
    results
        What is in it.
    scale
        Map values of the lowest and highest colour.
    why
        Draws the reason for a verdict, or returns None.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ResultsWriter(folder, scale, why=why) as writer:
            for photo, found in results:
                writer.write(found, None if found.anomaly_map is None else _pixels(photo, found))
        write_coco(folder / "results.jsonl", folder / "coco.json")
        (folder / "results.csv").write_bytes(as_table(results))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG files are compressed already
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder).as_posix())


def _pixels(photo: Photo, found: Prediction) -> NDArray[Any] | None:
    # One that was moved away or replaced since it was judged spoils neither its heat map nor the other photos.
    try:
        pixels = read_photo(photo.source.file)
    except ImageError:
        return None
    return pixels if pixels.shape[:2] == found.size else None


def _number(value: float | None) -> float | str:
    return "" if value is None else value


def _text(text: str) -> str:
    # A spreadsheet would take such a name for a formula, and names come from whoever uploads.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
