"""Data sets as CSV tables with one image per row: path, label, split and, optionally, mask, category and kind."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from patchcore_plugin.errors import DatasetError

from .files import natural_key, path_key
from .types import DEFECT, GOOD, CategorySource, TestImage

SUFFIX = ".csv"

_GOOD_LABELS = ("good", "normal", "ok", "0")
_DEFECT_LABELS = ("bad", "anomaly", "defect", "ko", "ng", "1")
_SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns in the header of a table, in lower case.

    Attributes
    ----------
    path, label, split, mask, category, kind : str
        Name of each column.
    required : tuple of str
        Columns that must exist.
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


def read_table(file: Path, columns: Columns | None = None, base: Path | None = None) -> list[CategorySource]:
    """Return the categories in a table, at least one, in natural order of their names.

    Parameters
    ----------
    file : Path
        UTF-8 text, with or without a byte-order mark. Commas, semicolons or tabs separate its cells.
    columns : Columns, optional
        Names of the columns.
    base : Path, optional
        Folder that paths in the table are relative to; by default, the folder of the table.

    Returns
    -------
    list of CategorySource
        The existence of the images is checked when they are listed.

    Raises
    ------
    DatasetError
        If the file cannot be read, a column is missing, or a cell is invalid; the message names the line.
    """
    columns = columns or Columns()
    base = base or file.parent
    categories: dict[str, dict[Path, _Row]] = {}
    for line, cells in _read_rows(file, columns.required):
        row, category = _parse_row(file, line, cells, columns, base)
        rows = categories.setdefault(category, {})
        first = rows.setdefault(row.path.resolve(), row)
        if (row.split, row.kind, row.mask) != (first.split, first.kind, first.mask):
            raise _row_error(file, line, f"{row.path} differs from line {first.line}; remove one of the two rows")
    if not categories:
        raise DatasetError(f"{file}: no rows below the header; write one image per row")
    return [
        CategorySource(name, partial(_list_train, file, name, images), partial(_list_test, file, name, images))
        for name in sorted(categories, key=natural_key)
        for images in [sorted(categories[name].values(), key=lambda row: path_key(row.path))]
    ]


def _list_train(file: Path, category: str, rows: list[_Row]) -> list[Path]:
    """Return the good training images; a fit takes no defective ones."""
    selection = [row for row in rows if row.split == "train" and row.kind == GOOD]
    if not selection:
        raise DatasetError(f"{file}: category {category} has no row with split train and a good label; add some")
    return [_require_file(file, row.line, row.path) for row in selection]


def _list_test(file: Path, category: str, rows: list[_Row]) -> list[TestImage]:
    selection = [row for row in rows if row.split == "test"]
    if not selection:
        raise DatasetError(f"{file}: category {category} has no row with split test; add some")
    images = [
        TestImage(
            _require_file(file, row.line, row.path),
            row.kind,
            row.kind != GOOD,
            _require_file(file, row.line, row.mask) if row.mask else None,
        )
        for row in selection
    ]
    return sorted(images, key=lambda image: (image.is_anomalous, natural_key(image.kind)))


def _parse_row(file: Path, line: int, cells: dict[str, str], columns: Columns, base: Path) -> tuple[_Row, str]:
    """Return one row and its category."""
    path, label = cells[columns.path], cells[columns.label].lower()
    split, mask = cells[columns.split].lower(), cells.get(columns.mask)
    if not path:
        raise _row_error(file, line, f"{columns.path} is empty; write the path of an image")
    if label not in (*_GOOD_LABELS, *_DEFECT_LABELS):
        labels = f"{', '.join(_GOOD_LABELS)} for a good image, {', '.join(_DEFECT_LABELS)} for a defective one"
        raise _row_error(file, line, f"{columns.label} is {label!r}; write {labels}")
    if split not in _SPLITS:
        raise _row_error(file, line, f"{columns.split} is {split!r}; write {' or '.join(_SPLITS)}")
    is_good = label in _GOOD_LABELS
    kind = cells.get(columns.kind) or (GOOD if is_good else DEFECT)
    if (kind == GOOD) != is_good:
        raise _row_error(file, line, f"{columns.label} {label!r} contradicts {columns.kind} {kind!r}; correct one")
    category = cells.get(columns.category, file.stem)
    # Results are written to a folder of this name.
    if not re.fullmatch(r'[^\x00-\x1f<>:"/\\|?*]+', category) or category.strip(".") != category:
        raise _row_error(file, line, f"{columns.category} is {category!r}; write a valid folder name")
    return _Row(line, base / path, split, kind, base / mask if mask and not is_good else None), category


def _read_rows(file: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of the last line of each row, and its cells by column."""
    try:
        # Spreadsheet programs start files with a byte-order mark.
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
                header = _parse_header(file, values, required)
            elif len(values) > len(header):
                raise _row_error(file, reader.line_num, "more cells than columns; quote cells that hold a separator")
            else:
                values += [""] * (len(header) - len(values))
                yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise _row_error(file, reader.line_num, f"not a readable row ({error}); correct its quotes") from None
    if header is None:
        raise DatasetError(f"{file}: empty; its first line must name the columns: {', '.join(required)}")


def _parse_header(file: Path, names: list[str], required: tuple[str, ...]) -> list[str]:
    header = [name.lower() for name in names]
    missing = [name for name in required if name not in header]
    if missing:
        raise DatasetError(f"{file}: no column {', '.join(missing)}; add it to the first line: {', '.join(header)}")
    duplicates = [name for name in header if name and header.count(name) > 1]
    if duplicates:
        raise DatasetError(f"{file}: two columns are called {duplicates[0]}; rename one")
    return header


def _require_file(file: Path, line: int, path: Path) -> Path:
    if not path.is_file():
        raise _row_error(file, line, f"no such file: {path}; correct the path")
    return path


def _row_error(file: Path, line: int, problem: str) -> DatasetError:
    return DatasetError(f"{file}, line {line}: {problem}")
