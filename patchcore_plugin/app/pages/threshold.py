"""The threshold: shown with the scores of good images, moved, set by a false-alarm rate, and saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from nicegui import ui

from patchcore_plugin.app import drawing
from patchcore_plugin.app.session import Session
from patchcore_plugin.app.text import describe_false_alarms
from patchcore_plugin.errors import PatchcoreError, one_line

from .widgets import (
    MessageLog,
    ProgramChange,
    card,
    field_button,
    ignore_while_running,
    primary_button,
    rate_input,
    read_rate,
    set_range,
    slider,
)


class ThresholdCard:
    """A histogram, a slider and fields for the threshold of a session.

    Parameters
    ----------
    session
        Session whose threshold is shown.
    messages
        Log for errors.
    on_move
        Called when the threshold changes.
    on_release
        Called when the user has finished a change.
    """

    def __init__(
        self,
        session: Session,
        messages: MessageLog,
        on_move: Callable[[], object],
        on_release: Callable[[], object],
    ) -> None:
        self._session, self._messages, self._on_move, self._on_release = session, messages, on_move, on_release
        self._program_change = ProgramChange()
        with card("Threshold") as self._card:
            self._histogram = ui.html("", sanitize=False).classes("pc-wide")
            ui.label("Bars: good images used for calibration. Triangles: images on this page.").classes("pc-soft")
            self._slider = slider("Threshold", low=0.0, high=1.0, value=0.0).classes("pc-aligned")
            self._slider.on_value_change(lambda event: self._move(event.value, by_slider=True))
            self._slider.on("change", lambda: on_release(), args=[])
            self._number = ui.number("Defect if the score exceeds", format="%.6g").props("outlined dense")
            self._number.on_value_change(lambda event: self._move(event.value, by_slider=False))
            self._number.on("blur", lambda: on_release(), args=[])
            with ui.element("div").classes("pc-buttons pc-row"):
                self._rate = rate_input("False-alarm rate (%)")
                self._rate.on("keydown.enter", self._set_rate)
                field_button("Set", self._set_rate, "Set the threshold by false-alarm rate")
            self._false_alarms = ui.label().classes("pc-soft").props('role="status"')
            with ui.element("div").classes("pc-buttons"):
                self._save = primary_button("Save to model", ignore_while_running(self._save_threshold))
                self._reset = ui.button("Reset to saved", on_click=self._reset_threshold).props("no-caps flat")

    def update(self) -> None:
        """Show the threshold of the session, on an axis that holds all scores."""
        calibration = self._session.calibration
        self._card.set_visibility(calibration is not None)
        if calibration is not None:
            scores = [*calibration.scores, *(image.prediction.score for image in self._session.images.values())]
            if calibration.threshold is not None:
                scores.append(calibration.threshold)
            with self._program_change:
                set_range(self._slider, *drawing.axis_range(scores))
                self._number.set_value(calibration.threshold)
                if calibration.threshold is not None:
                    self._slider.set_value(calibration.threshold)
        self._draw()

    def _draw(self) -> None:
        session, calibration = self._session, self._session.calibration
        if calibration is None:
            self._false_alarms.set_text("")
            self._histogram.set_content("")
        else:
            marks = [(image.prediction.score, session.is_anomalous(image)) for image in session.images.values()]
            limits = self._slider.props["min"], self._slider.props["max"]
            svg = drawing.draw_histogram(calibration.scores, marks, calibration.threshold, limits)
            self._histogram.set_content(svg)
            self._false_alarms.set_text(describe_false_alarms(calibration))
        can_be_saved = session.loaded is not None and session.loaded.can_be_saved
        self._save.set_enabled(session.is_changed and can_be_saved)
        self._reset.set_enabled(session.is_changed)

    def _move(self, value: float | None, *, by_slider: bool) -> None:
        if self._program_change or value is None or self._session.calibration is None:
            return
        # The field rounds its value when it loses the focus, and reports that as a change.
        if not by_slider and math.isclose(value, self._session.calibration.threshold or math.inf, rel_tol=1e-5):
            return
        self._session.set_threshold(value)
        with self._program_change:
            (self._number if by_slider else self._slider).set_value(value)
        self._draw()
        self._on_move()

    def _set_rate(self) -> None:
        try:
            self._session.set_rate(read_rate(self._rate))
        except PatchcoreError as error:
            self._messages.error(one_line(error))
            return
        self._finish_change()

    def _reset_threshold(self) -> None:
        self._session.reset_threshold()
        self._finish_change()

    async def _save_threshold(self) -> None:
        # Read before the first await, because the user may choose another model meanwhile.
        loaded, calibration = self._session.loaded, self._session.calibration
        if loaded is None or calibration is None:
            return

        def save() -> Path:
            loaded.save(calibration)
            return loaded.path

        path = await self._messages.attempt(save)
        if path is not None:
            self._messages.note(f"Threshold saved to {path.name}.")
        self._draw()

    def _finish_change(self) -> None:
        self.update()
        self._on_move()
        self._on_release()
