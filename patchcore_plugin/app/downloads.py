"""The results of a visit as files: one line or row for each image, and everything with pictures as a zip file."""

from __future__ import annotations

import csv
import io
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from patchcore_plugin.data.images import read_image
from patchcore_plugin.errors import ImageError
from patchcore_plugin.inference.coco import write_coco
from patchcore_plugin.inference.writer import ResultsWriter

from .visit import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from patchcore_plugin.data.types import Rgb
    from patchcore_plugin.models.prediction import Prediction

Results: TypeAlias = "Sequence[tuple[Image, Prediction]]"
Why: TypeAlias = "Callable[[Prediction], Rgb | None]"
COLUMNS = ("image", "verdict", "score", "p_value", "threshold", "regions", "nearest_image", "nearest_x", "nearest_y")
VERDICTS = {True: "defect", False: "good", None: ""}


def as_lines(results: Results) -> bytes:
    """Return ``results.jsonl``, as `patchcore predict` writes it, without pictures."""
    with tempfile.TemporaryDirectory() as folder:
        with ResultsWriter(Path(folder), (0.0, 1.0)) as writer:
            for _, found in results:
                writer.write(replace(found, anomaly_map=None))
        return Path(folder, "results.jsonl").read_bytes()


def as_table(results: Results) -> bytes:
    """Return a row for each image as CSV in UTF-8, with a byte-order mark, which spreadsheets want."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for _, found in results:
        nearest = found.nearest
        place = ("", "", "") if nearest is None else (_text(nearest.image or ""), nearest.x, nearest.y)
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
        with ResultsWriter(folder, scale, explain=why) as writer:
            for image, found in results:
                writer.write(found if found.anomaly_map is None else replace(found, pixels=_pixels(image, found)))
        write_coco(folder / "results.jsonl", folder / "coco.json")
        (folder / "results.csv").write_bytes(as_table(results))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG files are compressed already
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder).as_posix())


def _pixels(image: Image, found: Prediction) -> NDArray[Any] | None:
    # One that was moved away or replaced since it was judged spoils neither its heat map nor the other images.
    try:
        pixels = read_image(image.source.file)
    except ImageError:
        return None
    return pixels if pixels.shape[:2] == found.size else None


def _number(value: float | None) -> float | str:
    return "" if value is None else value


def _text(text: str) -> str:
    # A spreadsheet would take such a name for a formula, and names come from whoever uploads.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
