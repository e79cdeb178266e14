"""The threshold beside the scores of good images: move it, choose it by a rate, store it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nicegui import ui

from patchcore_plugin.app import drawing
from patchcore_plugin.app.words import one_line, promise
from patchcore_plugin.errors import PatchcoreError

from .parts import Messages, Quiet, card, once, primary, rate_input, rate_of, secondary, set_range, slider

if TYPE_CHECKING:
    from patchcore_plugin.app.visit import Visit


class ThresholdCard:
    """A histogram, a slider and fields for one visit's threshold.

    Parameters
    ----------
    visit
        Whose threshold it is.
    messages
        Where errors are told.
    moved
        Called whenever the threshold has changed.
    settled
        Called when it will stay for a while: nothing is dragged or typed any more.
    """

    def __init__(
        self, visit: Visit, messages: Messages, moved: Callable[[], object], settled: Callable[[], object]
    ) -> None:
        self._visit, self._messages, self._moved, self._settled = visit, messages, moved, settled
        self._quiet = Quiet()
        with card("Threshold") as self._card:
            self._histogram = ui.html("", sanitize=False).classes("pc-wide")
            ui.label("Bars: good images of the calibration. Triangles: images judged here.").classes("pc-soft")
            self._slider = slider("Threshold", low=0.0, high=1.0, value=0.0).classes("pc-aligned")
            self._slider.on_value_change(lambda event: self._move(event.value, slid=True))
            self._slider.on("change", lambda: settled(), args=[])
            self._number = ui.number("Score above which an image is a defect", format="%.6g").props("outlined dense")
            self._number.on_value_change(lambda event: self._move(event.value, slid=False))
            self._number.on("blur", lambda: settled(), args=[])
            with ui.element("div").classes("pc-buttons pc-row"):
                self._rate = rate_input("False-alarm rate, %")
                self._rate.on("keydown.enter", self._choose_rate)
                secondary("Set", self._choose_rate, "Set the false-alarm rate")
            self._promise = ui.label().classes("pc-soft").props('role="status"')
            with ui.element("div").classes("pc-buttons"):
                self._save = primary("Save into the model", once(self._store))
                self._restore = ui.button("Back to the stored one", on_click=self._go_back).props("no-caps flat")

    def show(self) -> None:
        """Show the visit's threshold, and ends of the slider that hold all scores."""
        calibration = self._visit.calibration
        self._card.set_visibility(calibration is not None)
        if calibration is not None:
            shown = [*calibration.scores, *(image.found.score for image in self._visit.images.values())]
            if calibration.threshold is not None:
                shown.append(calibration.threshold)
            with self._quiet:
                set_range(self._slider, *drawing.span(shown))
                self._number.set_value(calibration.threshold)
                if calibration.threshold is not None:
                    self._slider.set_value(calibration.threshold)
        self._draw()

    def _draw(self) -> None:
        visit, calibration = self._visit, self._visit.calibration
        if calibration is None:
            self._promise.set_text("")
            self._histogram.set_content("")
        else:
            marks = [(image.found.score, visit.verdict(image)) for image in visit.images.values()]
            limits = self._slider.props["min"], self._slider.props["max"]
            self._histogram.set_content(drawing.histogram(calibration.scores, marks, calibration.threshold, limits))
            self._promise.set_text(promise(calibration))
        can_be_saved = visit.loaded is not None and visit.loaded.can_be_saved
        self._save.set_enabled(visit.is_changed and can_be_saved)
        self._restore.set_enabled(visit.is_changed)

    def _move(self, value: float | None, *, slid: bool) -> None:
        if self._quiet or value is None or self._visit.calibration is None:
            return
        # The field rounds what it is given when it is left, and tells that as a change.
        if not slid and math.isclose(value, self._visit.calibration.threshold or math.inf, rel_tol=1e-5):
            return
        self._visit.choose_threshold(value)
        with self._quiet:
            (self._number if slid else self._slider).set_value(value)
        self._draw()
        self._moved()

    def _choose_rate(self) -> None:
        try:
            self._visit.choose_rate(rate_of(self._rate))
        except PatchcoreError as error:
            self._messages.error(one_line(error))
            return
        self._is_set()

    def _go_back(self) -> None:
        self._visit.restore()
        self._is_set()

    async def _store(self) -> None:
        # Both are taken before it waits: another model may be chosen meanwhile.
        loaded, calibration = self._visit.loaded, self._visit.calibration
        if loaded is None or calibration is None:
            return

        def store() -> Path:
            loaded.save(calibration)
            return loaded.path

        path = await self._messages.attempt(store)
        if path is not None:
            self._messages.note(f"The threshold is stored in {path.name}.")
        self._draw()

    def _is_set(self) -> None:
        self.show()
        self._moved()
        self._settled()
