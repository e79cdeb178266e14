"""Widgets and helpers that the panels share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from nicegui import run, ui

from patchcore_plugin.errors import CalibrationError, PatchcoreError, one_line

T = TypeVar("T")

MAX_MESSAGES = 12
SLIDER_STEPS = 400


class MessageLog:
    """Messages that stay until they are dismissed; screen readers announce them."""

    def __init__(self) -> None:
        self._box: ui.element | None = None
        self._rows: list[ui.element] = []

    def place(self) -> None:
        """Insert the log at the current position of the page; call before the first message."""
        self._box = ui.element("div").classes("pc-messages")
        self._box.props('role="log" aria-live="polite" aria-label="Messages"')

    async def attempt(self, work: Callable[[], T]) -> T | None:
        """Run a function in a thread and return its result; show its error and return None if it fails."""
        try:
            return await run.io_bound(work)
        except (PatchcoreError, OSError) as error:
            self.error(one_line(error))
            return None

    def error(self, text: str) -> None:
        """Show an error message."""
        self._show(text, "pc-error")

    def note(self, text: str) -> None:
        """Show an informational message."""
        self._show(text, "pc-note")

    def clear(self) -> None:
        """Remove all messages."""
        for row in self._rows[:]:
            self._remove(row)

    def _show(self, text: str, kind: str) -> None:
        assert self._box is not None
        with self._box, ui.element("div").classes(f"pc-message {kind}") as row:
            ui.label(text)
            ui.button("Dismiss", color=None, on_click=lambda: self._remove(row)).props("flat dense no-caps")
        self._rows.append(row)
        while len(self._rows) > MAX_MESSAGES:
            self._remove(self._rows[0])

    def _remove(self, row: ui.element) -> None:
        if row in self._rows:
            self._rows.remove(row)
            row.delete()


class ProgramChange:
    """A context manager that is true inside: value changes there come from the program, not from the user."""

    def __init__(self) -> None:
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1

    def __bool__(self) -> bool:
        return self._depth > 0


def ignore_while_running(work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Wrap a click handler so that clicks during its execution, such as that of a double click, do nothing."""
    is_running = False

    async def run_once() -> None:
        nonlocal is_running
        if not is_running:
            is_running = True
            try:
                await work()
            finally:
                is_running = False

    return run_once


def primary_button(label: str, on_click: Callable[[], object]) -> ui.button:
    """Return a filled button for the main action of a group."""
    return ui.button(label, color=None, on_click=on_click).props("no-caps unelevated").classes("pc-primary")


def field_button(label: str, on_click: Callable[[], object], description: str) -> ui.button:
    """Return a button that belongs to a field; `description` is its accessible name."""
    button = ui.button(label, on_click=on_click).props("no-caps outline")
    button.props["aria-label"] = description
    return button


@contextmanager
def card(title: str) -> Iterator[ui.element]:
    """Put the elements created inside into a card with a heading."""
    with ui.element("section").classes("pc-card") as section:
        heading(title)
        yield section


def heading(text: str, tag: str = "h2") -> ui.label:
    """Return a heading, by default that of a card."""
    label = ui.label(text).classes("pc-heading")
    label.tag = tag
    return label


def folder_input(folders: Sequence[str], label: str) -> ui.input:
    """Return a text field for a folder with suggestions."""
    field = ui.input(label, value=folders[0] if folders else "").props("outlined dense").classes("pc-wide")
    with ui.element("datalist") as suggestions:
        for folder in folders:
            ui.element("option").props["value"] = folder
    suggestions.props["id"] = f"folders-{field.id}"
    field.props["list"] = f"folders-{field.id}"
    return field


def rate_input(label: str) -> ui.number:
    """Return a field for a false-alarm rate in per cent."""
    return ui.number(label, min=0, max=100, format="%.4g").props("outlined dense")


def read_rate(field: ui.number) -> float:
    """Return the rate in a field as a fraction; raise `CalibrationError` if the field is empty."""
    if field.value is None:
        raise CalibrationError("no false-alarm rate given; enter one, such as 1 for 1 %")
    return float(field.value) / 100


def slider(label: str, *, low: float, high: float, value: float) -> ui.slider:
    """Return a slider with a label above it."""
    ui.label(label).classes("pc-soft").style("margin-bottom: -10px")
    element = ui.slider(min=low, max=high, step=(high - low) / SLIDER_STEPS, value=value)
    element.props["aria-label"] = label
    return element


def set_range(slider: ui.slider, low: float, high: float) -> None:
    """Set the ends of a slider."""
    slider.props.update({"min": low, "max": high, "step": (high - low) / SLIDER_STEPS})
