"""A data set as a CSV file with an image a row: path, label, split and, optionally, mask, category and kind."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from patchcore_plugin.errors import DatasetError

from .files import by_path, natural
from .types import DEFECT, GOOD, Source, TestImage

SUFFIX = ".csv"

_GOOD_LABELS = ("good", "normal", "ok", "0")
_BAD_LABELS = ("bad", "anomaly", "defect", "ko", "ng", "1")
_SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """How a table calls its columns.

    Attributes
    ----------
    path, label, split, mask, category, kind : str
        Names in the header, in lower case.
    required : tuple of str
        Those that must be there.
    """

    path: str = "path"
    label: str = "label"
    split: str = "split"
    mask: str = "mask"
    category: str = "category"
    kind: str = "kind"
    required: tuple[str, ...] = ("path", "label", "split")


@dataclass(frozen=True)
class _Row:
    line: int
    path: Path
    split: str
    kind: str
    mask: Path | None


def find(file: Path, columns: Columns | None = None, base: Path | None = None) -> list[Source]:
    """Return the categories of a table, at least one, in natural order of their names.

    Parameters
    ----------
    file : Path
        Text in UTF-8, with or without a byte-order mark; its cells are separated by commas, semicolons or tabs.
    columns : Columns, optional
        The names in its header.
    base : Path, optional
        What its paths are relative to; its own folder if not given.

    Returns
    -------
    list of Source
        Whether the images exist is looked up when they are asked for.

    Raises
    ------
    DatasetError
        The file cannot be read, a column is missing, or a cell is not understood; the message names the line.
    """
    columns = columns or Columns()
    base = base or file.parent
    categories: dict[str, dict[Path, _Row]] = {}
    for line, cells in _cells(file, columns.required):
        row, category = _row(file, line, cells, columns, base)
        rows = categories.setdefault(category, {})
        known = rows.setdefault(row.path.resolve(), row)
        if (row.split, row.kind, row.mask) != (known.split, known.kind, known.mask):
            raise _wrong(file, line, f"{row.path} is in line {known.line} already, and differs; keep one of the two")
    if not categories:
        raise DatasetError(f"{file}: no rows below the header; write one image a row")
    return [
        Source(name, partial(_train, file, name, images), partial(_test, file, name, images))
        for name in sorted(categories, key=natural)
        for images in [sorted(categories[name].values(), key=lambda row: by_path(row.path))]
    ]


def _train(file: Path, category: str, rows: list[_Row]) -> list[Path]:
    """Return the good images for training; defective ones are left out, because a fit learns from good ones only."""
    chosen = [row for row in rows if row.split == "train" and row.kind == GOOD]
    if not chosen:
        raise DatasetError(f"{file}: no row of category {category} has a good label and split train; a fit needs some")
    return [_existing(file, row.line, row.path) for row in chosen]


def _test(file: Path, category: str, rows: list[_Row]) -> list[TestImage]:
    chosen = [row for row in rows if row.split == "test"]
    if not chosen:
        raise DatasetError(f"{file}: no row of category {category} has split test; an evaluation needs some")
    images = [
        TestImage(
            _existing(file, row.line, row.path),
            row.kind,
            row.kind != GOOD,
            _existing(file, row.line, row.mask) if row.mask else None,
        )
        for row in chosen
    ]
    return sorted(images, key=lambda image: (image.is_anomalous, natural(image.kind)))


def _row(file: Path, line: int, cells: dict[str, str], columns: Columns, base: Path) -> tuple[_Row, str]:
    """Return one row, and the category that it belongs to."""
    path, label = cells[columns.path], cells[columns.label].lower()
    split, mask = cells[columns.split].lower(), cells.get(columns.mask)
    if not path:
        raise _wrong(file, line, f"{columns.path} is empty; write the path of an image")
    if label not in (*_GOOD_LABELS, *_BAD_LABELS):
        accepted = f"{', '.join(_GOOD_LABELS)} for a good image, {', '.join(_BAD_LABELS)} for another"
        raise _wrong(file, line, f"{columns.label} is {label!r}; write {accepted}")
    if split not in _SPLITS:
        raise _wrong(file, line, f"{columns.split} is {split!r}; write {' or '.join(_SPLITS)}")
    is_good = label in _GOOD_LABELS
    kind = cells.get(columns.kind) or (GOOD if is_good else DEFECT)
    if (kind == GOOD) != is_good:
        raise _wrong(file, line, f"{columns.label} is {label!r}, but {columns.kind} is {kind!r}; correct one of them")
    category = cells.get(columns.category, file.stem)
    # Results are written into a folder of this name.
    if not re.fullmatch(r'[^\x00-\x1f<>:"/\\|?*]+', category) or category.strip(".") != category:
        raise _wrong(file, line, f"{columns.category} is {category!r}; write what can be the name of a folder")
    return _Row(line, base / path, split, kind, base / mask if mask and not is_good else None), category


def _cells(file: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each row's last line, and its cells by the names in the header."""
    try:
        # Spreadsheets start a file with a byte-order mark.
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: not a readable table ({error}); save it as CSV in UTF-8") from None
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    header: list[str] | None = None
    try:
        for row in reader:
            values = [value.strip() for value in row]
            if not any(values):
                continue
            if header is None:
                header = _header(file, values, required)
            elif len(values) > len(header):
                raise _wrong(file, reader.line_num, "more cells than the header has; quote what holds a separator")
            else:
                values += [""] * (len(header) - len(values))
                yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise _wrong(file, reader.line_num, f"not a readable row ({error})") from None
    if header is None:
        raise DatasetError(f"{file}: empty; its first line must name the columns: {', '.join(required)}")


def _header(file: Path, names: list[str], required: tuple[str, ...]) -> list[str]:
    header = [name.lower() for name in names]
    missing = [name for name in required if name not in header]
    if missing:
        raise DatasetError(f"{file}: no column {', '.join(missing)}; its first line has: {', '.join(header)}")
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise DatasetError(f"{file}: two columns are called {twice[0]}; rename one")
    return header


def _existing(file: Path, line: int, path: Path) -> Path:
    if not path.is_file():
        raise _wrong(file, line, f"no such file: {path}")
    return path


def _wrong(file: Path, line: int, what: str) -> DatasetError:
    return DatasetError(f"{file}, line {line}: {what}")
