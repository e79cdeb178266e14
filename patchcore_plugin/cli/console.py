"""How long work shows: a progress bar on a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

PLAIN_SECONDS = 10.0
GAP = 2
"""Columns of a terminal between those of a table."""


class Reporter:
    """Shows stages of work and how far they are; a context manager to be called as a progress callback."""

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
        self._said: dict[str, float] = {}

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
        """Show that `done` of `total` units of a stage are done; None is a total that is not known."""
        if self._bar is None:
            self._say(stage, done, total)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total)
        self._bar.update(self._tasks[stage], completed=done, total=total)

    def note(self, line: str) -> None:
        """Show a line beside the progress."""
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(line, highlight=False, markup=False)

    def _say(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        first = stage not in self._said
        complete = total is not None and done >= total
        if (complete and self._said.get(stage) != float("inf")) or (
            not first and now - self._said[stage] >= PLAIN_SECONDS
        ):
            print(f"{stage}: {done}{'' if total is None else f'/{total}'}", file=sys.stderr, flush=True)
            now = float("inf") if complete else now
        elif not first:
            return
        self._said[stage] = now


def print_json(content: object) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(content, indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; on something that is no terminal it is wide enough for every line."""
    shown = [[printable(each) for each in row] for row in rows]
    console = Console()
    if not console.is_terminal:
        console = Console(width=sum(max(map(cell_len, each)) + GAP for each in zip(columns, *shown, strict=True)))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in shown:
        table.add_row(*map(Text, row))  # in which nothing is markup
    console.print(table)


def printable(text: str) -> str:
    """Return a text, such as a file's name, in one line, with escapes for what would not be seen as it is."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def number(value: float | None, digits: int = 4) -> str:
    """Return a figure as text; a dash for one that there is not."""
    return "-" if value is None else f"{value:.{digits}f}"
