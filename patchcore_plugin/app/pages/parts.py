"""Small things that the panels are made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from nicegui import run, ui

from patchcore_plugin.app.words import one_line
from patchcore_plugin.errors import CalibrationError, PatchcoreError

T = TypeVar("T")

KEPT = 12
"""How many messages are shown; the oldest go."""
STEPS = 400
"""Steps of a slider."""


class Messages:
    """Messages that stay until they are dismissed, and are read out; nothing can be said before they are placed."""

    def __init__(self) -> None:
        self._box: ui.element | None = None
        self._rows: list[ui.element] = []

    def place(self) -> None:
        """Show them here."""
        self._box = ui.element("div").classes("pc-messages")
        self._box.props('role="log" aria-live="polite" aria-label="Messages"')

    async def attempt(self, work: Callable[[], T]) -> T | None:
        """Return what work in a thread returns; say what is wrong, and return None, where it fails."""
        try:
            return await run.io_bound(work)
        except (PatchcoreError, OSError) as error:
            self.error(one_line(error))
            return None

    def error(self, text: str) -> None:
        """Say what is wrong."""
        self._show(text, "pc-error")

    def note(self, text: str) -> None:
        """Say what has happened."""
        self._show(text, "pc-note")

    def clear(self) -> None:
        """Remove all."""
        for row in self._rows[:]:
            self._remove(row)

    def _show(self, text: str, kind: str) -> None:
        assert self._box is not None
        with self._box, ui.element("div").classes(f"pc-message {kind}") as row:
            ui.label(text)
            ui.button("Dismiss", color=None, on_click=lambda: self._remove(row)).props("flat dense no-caps")
        self._rows.append(row)
        while len(self._rows) > KEPT:
            self._remove(self._rows[0])

    def _remove(self, row: ui.element) -> None:
        if row in self._rows:
            self._rows.remove(row)
            row.delete()


class Quiet:
    """A context manager, true inside: what changes there is the program's doing, not the visitor's."""

    def __init__(self) -> None:
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1

    def __bool__(self) -> bool:
        return self._depth > 0


def once(work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Return work that is not begun again while it runs: the second click of a double click does nothing."""
    runs = False

    async def run_once() -> None:
        nonlocal runs
        if not runs:
            runs = True
            try:
                await work()
            finally:
                runs = False

    return run_once


def primary(label: str, on_click: Callable[[], object]) -> ui.button:
    """Return a filled button, for what is most likely wanted."""
    return ui.button(label, color=None, on_click=on_click).props("no-caps unelevated").classes("pc-primary")


def secondary(label: str, on_click: Callable[[], object], name: str) -> ui.button:
    """Return a button beside a field; `name` says in full what it does."""
    button = ui.button(label, on_click=on_click).props("no-caps outline")
    button.props["aria-label"] = name
    return button


@contextmanager
def card(title: str) -> Iterator[ui.element]:
    """Group what belongs together below a heading."""
    with ui.element("section").classes("pc-card") as section:
        heading(title)
        yield section


def heading(text: str, tag: str = "h2") -> ui.label:
    """Write a heading, by default that of a card."""
    label = ui.label(text).classes("pc-heading")
    label.tag = tag
    return label


def folder_input(folders: Sequence[str], label: str = "Folder") -> ui.input:
    """Let a folder be typed or chosen from those that are suggested."""
    field = ui.input(label, value=folders[0] if folders else "").props("outlined dense").classes("pc-wide")
    with ui.element("datalist") as choices:
        for folder in folders:
            ui.element("option").props["value"] = folder
    choices.props["id"] = f"folders-{field.id}"
    field.props["list"] = f"folders-{field.id}"
    return field


def rate_input(label: str) -> ui.number:
    """Return a field for a false-alarm rate, in per cent."""
    return ui.number(label, min=0, max=100, format="%.4g").props("outlined dense")


def rate_of(field: ui.number) -> float:
    """Return the rate that a field says; CalibrationError if it is empty."""
    if field.value is None:
        raise CalibrationError("no false-alarm rate given; type one, such as 1 for 1 %")
    return float(field.value) / 100


def slider(label: str, *, low: float, high: float, value: float) -> ui.slider:
    """Return a slider below its name."""
    ui.label(label).classes("pc-soft").style("margin-bottom: -10px")
    found = ui.slider(min=low, max=high, step=(high - low) / STEPS, value=value)
    found.props["aria-label"] = label
    return found


def set_range(slider: ui.slider, low: float, high: float) -> None:
    """Give a slider other ends."""
    slider.props.update({"min": low, "max": high, "step": (high - low) / STEPS})


def number(value: float | None) -> str:
    """Return a figure as text; a dash for one that there is not."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
