"""The panel for fitting: choose images, fit, set the false-alarm rate, save and use the model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from patchcore_plugin.app.fit_job import FitJob, FitRequest
from patchcore_plugin.app.model_store import LoadedModel
from patchcore_plugin.app.site import Site
from patchcore_plugin.app.text import count_images
from patchcore_plugin.data.datasets import find_training_images
from patchcore_plugin.evaluation.report.format import number

from .widgets import (
    MessageLog,
    card,
    field_button,
    folder_input,
    ignore_while_running,
    primary_button,
    rate_input,
    read_rate,
)

DEFAULT_BACKBONE = "Default of the recipe"


class FitPanel:
    """The form, the progress and the result of the fit job.

    Parameters
    ----------
    site
        State that the pages share.
    use
        Function that switches the page to a saved model.
    """

    def __init__(self, site: Site, use: Callable[[LoadedModel], Awaitable[None]]) -> None:
        self._site, self._job, self._use = site, site.fit_job, use
        self._last_state: tuple[Any, ...] = ()
        self._messages = MessageLog()
        self._messages.place()
        with ui.element("div").classes("pc-fit"):
            with card("Fit a model"):
                self._build_form()
            with card("Progress and result"):
                self._build_result()
        ui.timer(0.4, self._update)
        self._update()

    def _build_form(self) -> None:
        folders = self._site.folders.suggestions()
        if not folders:
            ui.label("To fit on a folder on this machine, start the app with --images FOLDER.").classes("pc-soft")
        self._folder = folder_input(folders, "Folder with images of good parts")
        self._recipe = ui.select(self._site.recipes, label="Recipe", value="patchcore")
        self._recipe.props("outlined dense options-dense")
        self._backbone = ui.select(
            [DEFAULT_BACKBONE, *self._site.backbones], label="Backbone", value=DEFAULT_BACKBONE, with_input=True
        )
        self._backbone.props("outlined dense options-dense")
        self._rate = rate_input("False-alarm rate (%)")
        self._rate.props('hint="Default: 1, or the lowest possible rate"')
        for field in (self._recipe, self._backbone, self._rate):
            field.classes("pc-wide")
        self._thumbnails = ui.switch("Store thumbnails in the model, for explanations", value=True).props("dense")
        with ui.element("div").classes("pc-buttons"):
            self._start = primary_button("Fit", ignore_while_running(self._fit))
            self._cancel = ui.button("Cancel", on_click=self._cancel_fit).props("no-caps flat")

    def _build_result(self) -> None:
        self._state = ui.label().classes("pc-count").props('role="status"')
        self._bar = ui.linear_progress(0, show_value=False).props('aria-label="Progress of the fit"')
        self._notes = ui.label().classes("pc-soft")
        with ui.element("div").classes("pc-column") as self._result:
            self._summary = ui.label()
            self._threshold = ui.label()
            with ui.element("div").classes("pc-buttons pc-row"):
                self._new_rate = rate_input("New false-alarm rate (%)")
                self._set = field_button("Set", ignore_while_running(self._set_rate), "Set the new false-alarm rate")
            with ui.element("div").classes("pc-buttons pc-row"):
                self._name = ui.input("Model name").props("outlined dense")
                self._save = primary_button("Save and use", ignore_while_running(self._save_model))
            self._discard = ui.button("Discard model", on_click=self._discard_model).props("no-caps flat")
            self._discard.classes("pc-start")

    async def _fit(self) -> None:
        folders, folder = self._site.folders, self._folder.value or ""
        backbone = None if self._backbone.value in (None, DEFAULT_BACKBONE) else self._backbone.value
        rate = None if self._rate.value is None else read_rate(self._rate)
        recipe, thumbnails = self._recipe.value or "", bool(self._thumbnails.value)

        def start() -> bool:
            images = folders.check(find_training_images([folders.resolve(folder)]))
            self._job.start(
                FitRequest(
                    folder=folder, images=images, recipe=recipe, backbone=backbone, rate=rate, thumbnails=thumbnails
                )
            )
            return True

        if await self._messages.attempt(start):
            self._messages.clear()
        self._update()

    def _cancel_fit(self) -> None:
        self._job.cancel()
        self._update()

    def _discard_model(self) -> None:
        self._job.discard()
        self._update()

    async def _set_rate(self) -> None:
        model = self._job.model
        if model is None or self._job.saved_path is not None:
            return

        def calibrate() -> None:
            model.calibration = model.calibration.at_rate(read_rate(self._new_rate))

        await self._messages.attempt(calibrate)
        self._last_state = ()
        self._update()

    async def _save_model(self) -> None:
        model, name = self._job.model, self._name.value or ""
        if model is None:
            return
        loaded = await self._messages.attempt(lambda: self._site.models.add(name, model))
        if loaded is not None:
            self._job.saved_path = loaded.path
            self._messages.clear()
            self._update()
            await self._use(loaded)

    def _update(self) -> None:
        """Show the state of the fit job, which another page may have started."""
        job = self._job
        state = job.state, job.is_cancelled, job.saved_path, job.stage, job.done, job.total, len(job.notes)
        if state == self._last_state:
            return
        self._last_state = state
        is_running, is_done = job.state == "running", job.state == "done"
        self._start.set_enabled(not is_running and bool(self._site.folders.roots))
        self._cancel.set_visibility(is_running and not job.is_cancelled)
        self._bar.set_visibility(is_running)
        self._result.set_visibility(is_done)
        self._notes.set_text(" ".join(job.notes) if is_running else "")
        if is_running:
            self._state.set_text(_describe_stage(job))
            self._bar.set_value(job.done / job.total if job.total else 0)
        elif is_done:
            self._show_result()
        else:
            texts = {"idle": "No model has been fitted yet", "cancelled": "The fit was cancelled"}
            self._state.set_text(texts.get(job.state, f"The fit failed: {job.error}"))

    def _show_result(self) -> None:
        job = self._job
        model, request = job.model, job.request
        assert request is not None
        self._state.set_text("Model fitted" if job.saved_path is None else f"Saved as {job.saved_path.name}")
        self._summary.set_text(
            f"{count_images(len(request.images))} from {request.folder}, recipe {request.recipe}: "
            f"{model.bank_rows:,} patches in the memory bank, fitted in {job.seconds:.0f} s."
        )
        self._threshold.set_text(f"Threshold {number(model.threshold)}: {model.calibration.describe()}.")
        for button in (self._save, self._set):
            button.set_enabled(job.saved_path is None)
        self._discard.set_visibility(job.saved_path is None)


def _describe_stage(job: FitJob) -> str:
    if job.is_cancelled:
        return "Cancelling after the current step"
    if not job.total:
        return "Loading the backbone"
    return f"{job.stage.capitalize()}: {job.done} of {job.total}"
