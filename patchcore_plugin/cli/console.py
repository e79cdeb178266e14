"""Terminal output: progress, tables, JSON and numbers."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from patchcore_plugin.errors import ImageError, one_line

LOG_INTERVAL = 10.0
"""Seconds between two progress lines where standard error is not a terminal."""
GAP = 2
"""Spaces between the columns of a table."""
VERDICTS = {True: "defect", False: "good", None: "-"}
"""Text for the ``is_anomalous`` field of a record."""


class Reporter:
    """Progress on standard error: a bar on a terminal, plain lines elsewhere.

    Use it as a context manager, and pass it as the progress callback.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            if console.is_terminal
            else None
        )
        self._tasks: dict[str, Any] = {}
        self._printed_at: dict[str, float] = {}

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` units of a stage are complete; None means that the total is unknown."""
        if self._bar is None:
            self._print_line(stage, done, total)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total)
        self._bar.update(self._tasks[stage], completed=done, total=total)

    def note(self, line: str) -> None:
        """Print a line above the progress bar."""
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(line, highlight=False, markup=False)

    def _print_line(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        last = self._printed_at.setdefault(stage, now)
        complete = total is not None and done >= total
        if last != math.inf and (complete or now - last >= LOG_INTERVAL):
            self.note(f"{stage}: {done}{'' if total is None else f'/{total}'}")
            self._printed_at[stage] = math.inf if complete else now


def print_json(content: object) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(content, indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. Cells wrap on a terminal only; elsewhere the table is as wide as its longest row."""
    rows = [[escape_unprintable(cell) for cell in row] for row in rows]
    console = Console()
    if not console.is_terminal:
        console = Console(width=sum(max(map(cell_len, column)) + GAP for column in zip(columns, *rows, strict=True)))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text, so that brackets are not markup
    console.print(table)


def escape_unprintable(text: str) -> str:
    r"""Return a text, such as a file name, with unprintable characters escaped.

    Examples
    --------
    >>> print(escape_unprintable("two\nlines.png"))
    two\nlines.png
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def format_decimal(value: float | None, digits: int = 4) -> str:
    """Return a number with a fixed number of decimals, or a dash for None.

    Examples
    --------
    >>> format_decimal(2 / 3), format_decimal(None)
    ('0.6667', '-')
    """
    return "-" if value is None else f"{value:.{digits}f}"


def format_count(number: int, noun: str) -> str:
    """Return a number and a noun, in the plural if necessary.

    Examples
    --------
    >>> format_count(1, "image"), format_count(2, "image")
    ('1 image', '2 images')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def skip_reason(error: ImageError | str) -> str:
    """Return why an image was skipped, on one line and without the advice to skip it."""
    text = one_line(error) if isinstance(error, ImageError) else " ".join(error.split())
    return text.removesuffix(", or pass --on-error skip")


def report_skipped(errors: Sequence[ImageError], total: int) -> None:
    """Print the images that were skipped on standard error, and exit with code 1 if there are any.

    Raises
    ------
    typer.Exit
        If `errors` is not empty.
    """
    for error in errors:
        typer.echo(f"patchcore: {skip_reason(error)}", err=True)
    if errors:
        typer.echo(
            f"patchcore: skipped {len(errors)} of {format_count(total, 'image')}; the rest were processed", err=True
        )
        raise typer.Exit(1)
