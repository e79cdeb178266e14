"""How the heat maps look: one colour scale for all images, opacity, and outlines."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from nicegui import events, ui

from patchcore_plugin.app import drawing
from patchcore_plugin.inference.rendering import MAX_OPACITY, colour_bar

from .parts import Quiet, card, number, set_range, slider


class ColoursCard:
    """Sliders for the ends of the colour scale and the opacity.

    Parameters
    ----------
    moved
        Called when the scale has changed.
    settled
        Called when it will stay for a while.
    """

    def __init__(self, moved: Callable[[], object], settled: Callable[[], object]) -> None:
        self.low, self.high = 0.0, 1.0
        self._moved, self._quiet = moved, Quiet()
        # The dialog of an image is no part of the card, so that these hold for the whole page.
        self._body = ui.query("body").style(f"--pc-opacity: {MAX_OPACITY}")
        with card("Heat map") as self._card:
            bar = ui.element("img").classes("pc-bar")
            bar.props["src"] = f"data:image/png;base64,{base64.b64encode(drawing.png(colour_bar())).decode()}"
            bar.props["alt"] = "Colours from the lower end to the upper end"
            self._text = ui.label().classes("pc-soft")
            self._low = slider("Lower end", low=0.0, high=1.0, value=0.0)
            self._high = slider("Upper end", low=0.0, high=1.0, value=1.0)
            for each in (self._low, self._high):
                each.on_value_change(lambda: self._move())
                each.on("change", lambda: settled(), args=[])
            opacity = slider("Opacity", low=0.0, high=1.0, value=MAX_OPACITY)
            opacity.on_value_change(lambda event: self._body.style(f"--pc-opacity: {event.value:.3f}"))
            ui.switch("Outlines of regions", value=True, on_change=self._switch).props("dense")
        self._card.set_visibility(False)

    def set_scale(self, low: float, high: float) -> None:
        """Take another scale, a model's own."""
        self.low, self.high = low, high
        self._card.set_visibility(True)
        bottom = min(0.0, low)
        with self._quiet:
            for each, value in ((self._low, low), (self._high, high)):
                set_range(each, bottom, 2 * high - bottom)
                each.set_value(value)
        self._show()
        self._moved()

    def _move(self) -> None:
        if self._quiet:
            return
        ends = self._low.value or 0.0, self._high.value or 0.0
        self.low, self.high = min(ends), max(ends)
        self._show()
        self._moved()

    def _show(self) -> None:
        self._text.set_text(f"Values of the map from {number(self.low)} to {number(self.high)}, equal for all images.")

    def _switch(self, event: events.ValueChangeEventArguments[Any]) -> None:
        off = "pc-no-outlines"
        self._body.classes(add="" if event.value else off, remove=off if event.value else "")
