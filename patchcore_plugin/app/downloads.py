"""Results of a session as files: JSON lines, CSV, and a ZIP archive with images."""

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

from .session import ScoredImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from patchcore_plugin.data.types import Rgb
    from patchcore_plugin.models.prediction import Prediction

Results: TypeAlias = "Sequence[tuple[ScoredImage, Prediction]]"
Explain: TypeAlias = "Callable[[Prediction], Rgb | None]"
COLUMNS = ("image", "verdict", "score", "p_value", "threshold", "regions", "nearest_image", "nearest_x", "nearest_y")
VERDICTS = {True: "defect", False: "good", None: ""}


def to_jsonl(results: Results) -> bytes:
    """Return ``results.jsonl`` in the format of `patchcore predict`, without image files."""
    with tempfile.TemporaryDirectory() as folder:
        with ResultsWriter(Path(folder), (0.0, 1.0)) as writer:
            for _, prediction in results:
                writer.write(replace(prediction, anomaly_map=None))
        return Path(folder, "results.jsonl").read_bytes()


def to_csv(results: Results) -> bytes:
    """Return a table with one row per image: UTF-8 with a byte-order mark, which spreadsheets need."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for _, prediction in results:
        nearest = prediction.nearest
        position = ("", "", "") if nearest is None else (_escape(nearest.image or ""), nearest.x, nearest.y)
        row: list[Any] = [_escape(prediction.path or ""), VERDICTS[prediction.is_anomalous], prediction.score]
        # The csv module writes None as an empty cell.
        table.writerow([*row, prediction.p_value, prediction.threshold, len(prediction.regions), *position])
    return text.getvalue().encode("utf-8-sig")


def write_zip(path: Path, results: Results, scale: tuple[float, float], explain: Explain | None = None) -> None:
    """Write a ZIP archive with JSON lines, CSV, COCO regions, heat maps, overlays and explanations.

    Parameters
    ----------
    path
        File to write.
    results
        Images and their predictions.
    scale
        Map values of the lowest and highest colour, the same for all images.
    explain
        Function that draws the explanation of a prediction, or returns None.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ResultsWriter(folder, scale, explain=explain) as writer:
            for image, prediction in results:
                if prediction.anomaly_map is not None:
                    prediction = replace(prediction, pixels=_read_pixels(image, prediction))
                writer.write(prediction)
        write_coco(folder / "results.jsonl", folder / "coco.json")
        (folder / "results.csv").write_bytes(to_csv(results))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG files are compressed already
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder).as_posix())


def _read_pixels(image: ScoredImage, prediction: Prediction) -> NDArray[Any] | None:
    # A file that was deleted or replaced since it was scored has no overlay, but still a heat map.
    try:
        pixels = read_image(image.source.file)
    except ImageError:
        return None
    return pixels if pixels.shape[:2] == prediction.size else None


def _escape(text: str) -> str:
    # A spreadsheet evaluates cells that start with these characters, and clients choose the names of uploads.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
