"""Images of good parts to a model: choose, fit, see how far it is, choose the rate, save, use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from nicegui import ui

from patchcore_plugin.app.fitting import Fitting, Wanted
from patchcore_plugin.data.datasets import find_training_images

from .parts import Messages, card, folder_input, number, once, primary, rate_input, rate_of, secondary

if TYPE_CHECKING:
    from patchcore_plugin.app.library import Loaded
    from patchcore_plugin.app.site import Site

OWN = "The recipe's own"


class FitPanel:
    """The form, the progress and the result of the one fit that runs here.

    Parameters
    ----------
    site
        What is behind the page.
    use
        Called with a model that was saved.
    """

    def __init__(self, site: Site, use: Callable[[Loaded], Awaitable[None]]) -> None:
        self._site, self._use = site, use
        self._shown: tuple[Any, ...] = ()
        self._messages = Messages()
        self._messages.place()
        with ui.element("div").classes("pc-fit"):
            with card("Fit a model"):
                self._build_form()
            with card("Progress and result"):
                self._build_result()
        ui.timer(0.4, self._look)
        self._look()

    def _build_form(self) -> None:
        folders = self._site.folders.suggestions()
        if not folders:
            ui.label("Start the app with --images FOLDER to fit on folders of this machine.").classes("pc-soft")
        self._folder = folder_input(folders, "Folder of images of good parts")
        recipes, backbones = self._site.choices.recipes, self._site.choices.backbones
        self._recipe = ui.select(list(recipes), label="Recipe", value="patchcore").props("outlined dense options-dense")
        self._backbone = ui.select([OWN, *backbones], label="Backbone", value=OWN, with_input=True)
        self._backbone.props("outlined dense options-dense")
        self._rate = rate_input("False-alarm rate, %")
        self._rate.props('hint="Empty: 1, or as low as so few images allow"')
        for each in (self._recipe, self._backbone, self._rate):
            each.classes("pc-wide")
        self._thumbnails = ui.switch("Keep thumbnails of the images in the model, to show reasons", value=True)
        self._thumbnails.props("dense")
        with ui.element("div").classes("pc-buttons"):
            self._start = primary("Fit", once(self._fit))
            self._cancel = ui.button("Cancel", on_click=self._stop).props("no-caps flat")

    def _build_result(self) -> None:
        self._state = ui.label().classes("pc-count").props('role="status"')
        self._bar = ui.linear_progress(0, show_value=False).props('aria-label="Progress of the fit"')
        self._notes = ui.label().classes("pc-soft")
        with ui.element("div").classes("pc-column") as self._result:
            self._learned = ui.label()
            self._threshold = ui.label()
            with ui.element("div").classes("pc-buttons pc-row"):
                self._new_rate = rate_input("Another false-alarm rate, %")
                self._set = secondary("Set", once(self._calibrate), "Set the rate of the new model")
            with ui.element("div").classes("pc-buttons pc-row"):
                self._name = ui.input("Name of the model").props("outlined dense")
                self._save = primary("Save and use", once(self._save_model))
            self._discard = ui.button("Discard the model", on_click=self._drop).props("no-caps flat")
            self._discard.classes("pc-start")

    async def _fit(self) -> None:
        folders, text = self._site.folders, self._folder.value or ""
        backbone = None if self._backbone.value in (None, OWN) else self._backbone.value
        rate = None if self._rate.value is None else rate_of(self._rate)

        def start() -> bool:
            images = folders.check(find_training_images([folders.folder(text)]))
            self._site.fitting.start(
                Wanted(
                    folder=text,
                    images=images,
                    recipe=self._recipe.value or "",
                    backbone=backbone,
                    rate=rate,
                    thumbnails=bool(self._thumbnails.value),
                )
            )
            return True

        if await self._messages.attempt(start):
            self._messages.clear()
        self._look()

    def _stop(self) -> None:
        self._site.fitting.cancel()
        self._look()

    def _drop(self) -> None:
        self._site.fitting.discard()
        self._look()

    async def _calibrate(self) -> None:
        model = self._site.fitting.model
        if model is None or self._site.fitting.saved is not None:
            return

        def choose() -> None:
            model.calibration = model.calibration.at_rate(rate_of(self._new_rate))

        await self._messages.attempt(choose)
        self._shown = ()
        self._look()

    async def _save_model(self) -> None:
        fitting, name = self._site.fitting, self._name.value or ""
        model = fitting.model
        if model is None:
            return
        loaded = await self._messages.attempt(lambda: self._site.library.add(name, model))
        if loaded is not None:
            fitting.saved = loaded.path
            self._messages.clear()
            self._look()
            await self._use(loaded)

    def _look(self) -> None:
        """Show how far the fit is, whoever started it."""
        fitting = self._site.fitting
        stage = fitting.stage, fitting.done, fitting.total, len(fitting.notes)
        now = fitting.state, fitting.is_cancelled, fitting.saved, *stage
        if now == self._shown:
            return
        self._shown = now
        running, done = fitting.state == "running", fitting.state == "done"
        self._start.set_enabled(not running and bool(self._site.folders.roots))
        self._cancel.set_visibility(running and not fitting.is_cancelled)
        self._bar.set_visibility(running)
        self._result.set_visibility(done)
        self._notes.set_text(" ".join(fitting.notes) if running else "")
        if running:
            self._state.set_text(_stage(fitting))
            self._bar.set_value(fitting.done / fitting.total if fitting.total else 0)
        elif done:
            self._show_result()
        else:
            texts = {"idle": "Nothing has been fitted yet", "cancelled": "The fit was cancelled"}
            self._state.set_text(texts.get(fitting.state, f"The fit failed: {fitting.error}"))

    def _show_result(self) -> None:
        fitting = self._site.fitting
        model, wanted = fitting.model, fitting.wanted
        assert wanted is not None
        self._state.set_text("The model is fitted" if fitting.saved is None else f"Saved as {fitting.saved.name}")
        self._learned.set_text(
            f"{len(wanted.images)} images of {wanted.folder}, recipe {wanted.recipe}; "
            f"{model.bank_rows:,} patches kept, in {fitting.seconds:.0f} s."
        )
        self._threshold.set_text(f"Threshold {number(model.threshold)}: {model.calibration.describe()}.")
        for each in (self._save, self._set):
            each.set_enabled(fitting.saved is None)
        self._discard.set_visibility(fitting.saved is None)


def _stage(fitting: Fitting) -> str:
    if fitting.is_cancelled:
        return "Cancelling: it ends after the present step"
    if not fitting.total:
        return "Loading the backbone"
    return f"{fitting.stage.capitalize()}: {fitting.done} of {fitting.total}"
