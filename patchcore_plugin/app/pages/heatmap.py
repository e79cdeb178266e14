"""Appearance of the heat maps: one colour scale for all images, opacity and outlines."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from nicegui import events, ui

from patchcore_plugin.data.encoding import encode_png
from patchcore_plugin.evaluation.report.format import number
from patchcore_plugin.inference.rendering import MAX_OPACITY, colour_bar

from .widgets import ProgramChange, card, set_range, slider


class HeatMapCard:
    """Controls for the colour scale, the opacity and the outlines.

    Parameters
    ----------
    on_move
        Called when the colour scale changes.
    on_release
        Called when the user has finished a change.
    """

    def __init__(self, on_move: Callable[[], object], on_release: Callable[[], object]) -> None:
        self.low, self.high = 0.0, 1.0
        self._on_move, self._program_change = on_move, ProgramChange()
        # Set on the body, because the dialog of an image lies outside the card.
        self._body = ui.query("body").style(f"--pc-opacity: {MAX_OPACITY}")
        with card("Heat map") as self._card:
            bar = ui.element("img").classes("pc-bar")
            bar.props["src"] = f"data:image/png;base64,{base64.b64encode(encode_png(colour_bar())).decode()}"
            bar.props["alt"] = "Colour scale, from the minimum to the maximum"
            self._text = ui.label().classes("pc-soft")
            self._low = slider("Minimum", low=0.0, high=1.0, value=0.0)
            self._high = slider("Maximum", low=0.0, high=1.0, value=1.0)
            for end in (self._low, self._high):
                end.on_value_change(lambda: self._move())
                end.on("change", lambda: on_release(), args=[])
            opacity = slider("Opacity", low=0.0, high=1.0, value=MAX_OPACITY)
            opacity.on_value_change(lambda event: self._body.style(f"--pc-opacity: {event.value:.3f}"))
            ui.switch("Outline regions", value=True, on_change=self._toggle_outlines).props("dense")
        self._card.set_visibility(False)

    def set_scale(self, low: float, high: float) -> None:
        """Use another colour scale, such as that of a model."""
        self.low, self.high = low, high
        self._card.set_visibility(True)
        bottom = min(0.0, low)
        with self._program_change:
            for end, value in ((self._low, low), (self._high, high)):
                set_range(end, bottom, 2 * high - bottom)
                end.set_value(value)
        self._update_text()
        self._on_move()

    def _move(self) -> None:
        if self._program_change:
            return
        ends = self._low.value or 0.0, self._high.value or 0.0
        self.low, self.high = min(ends), max(ends)
        self._update_text()
        self._on_move()

    def _update_text(self) -> None:
        self._text.set_text(f"Anomaly scores from {number(self.low)} to {number(self.high)}, the same for all images.")

    def _toggle_outlines(self, event: events.ValueChangeEventArguments[Any]) -> None:
        hidden = "pc-no-outlines"
        self._body.classes(add="" if event.value else hidden, remove=hidden if event.value else "")
