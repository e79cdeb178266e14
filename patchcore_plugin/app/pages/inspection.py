"""The panel for inspection: choose images, view them and move the threshold."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nicegui import events, run, ui

from patchcore_plugin.app.model_store import LoadedModel
from patchcore_plugin.app.session import Session, Source, score_images
from patchcore_plugin.app.site import Site
from patchcore_plugin.app.text import count_images
from patchcore_plugin.errors import ImageError, PatchcoreError, one_line

from .heatmap import HeatMapCard
from .images import ImageCard, ImageDialog
from .threshold import ThresholdCard
from .uploads import UploadArea, truncation_note
from .widgets import MessageLog, ProgramChange, card, folder_input, primary_button

BATCH = 8
"""Number of images that are scored before the page shows them."""


class InspectPanel:
    """The panel with images, threshold, heat map and results.

    Parameters
    ----------
    site
        State that the pages share.
    session
        Session of this page.
    model_area
        Element for the choice of the model.
    open_fit
        Function that switches to the fit panel.
    """

    def __init__(self, site: Site, session: Session, model_area: ui.element, open_fit: Callable[[], object]) -> None:
        self._site, self._session = site, session
        self._queue: deque[Source] = deque()
        self._batch: list[Source] = []
        self._is_scoring = self._has_dropped_note = False
        self._program_change = ProgramChange()
        self._messages = MessageLog()
        self._cards: dict[int, ImageCard] = {}
        with model_area:
            self._model = ui.select({}, label="Model", on_change=self._choose_model)
            self._model.props("outlined dense options-dense").classes("pc-wide").on("click", self._list_models)
        with ui.element("div").classes("pc-inspect"):
            self._build_images()
            with ui.element("div").classes("pc-column pc-list"):
                self._build_list(open_fit)
            with ui.element("div").classes("pc-column"):
                self._threshold = ThresholdCard(session, self._messages, self._update_verdicts, self._update_outlines)
                self._heat_map = HeatMapCard(self._update_links, self._update_heat)
                self._build_results()
                self._update_links()
        self._dialog = ImageDialog(session, self._heat_map, site.routes, self._list_numbers)
        self._list_models()
        first = next(iter(site.models.paths()), None)
        if first is None:
            self._update()
        else:
            with self._program_change:
                self._model.set_value(first)
            ui.timer(0, lambda: self._open(first), once=True)

    async def use(self, loaded: LoadedModel) -> None:
        """Switch to another model and score the images of the page with it."""
        sources = self._session.use(loaded)
        for image_card in self._cards.values():
            image_card.remove()
        self._cards.clear()
        self._list_models()
        with self._program_change:
            self._model.set_value(self._site.models.label_of(loaded))
        self._heat_map.set_scale(*loaded.calibration.map_scale)
        self._update()
        await self._score(sources)

    def _build_images(self) -> None:
        with card("Images"):
            UploadArea(self._site.limits, self._messages, self._upload)
            if self._site.folders.roots:
                self._folder = folder_input(self._site.folders.suggestions(), "Folder")
                primary_button("Inspect folder", self._inspect_folder)
            else:
                ui.label("To inspect a folder on this machine, start the app with --images FOLDER.").classes("pc-soft")

    def _build_results(self) -> None:
        with card("Results") as self._results, ui.element("div").classes("pc-downloads"):
            self._links = {}
            for kind, text in (("jsonl", "results.jsonl"), ("csv", "results.csv"), ("zip", "All with images (ZIP)")):
                link = ui.label(text)
                link.tag = "a"
                link.props["download"] = f"results.{kind}"
                self._links[kind] = link

    def _build_list(self, open_fit: Callable[[], object]) -> None:
        self._messages.place()
        with ui.element("div").classes("pc-summary"):
            self._summary = ui.label().classes("pc-count").props('role="status"')
            self._only_defects = ui.switch("Show defects only").props("dense")
        self._progress = ui.linear_progress(0, show_value=False).props('instant-feedback aria-label="Scoring images"')
        self._progress.set_visibility(False)
        with ui.element("div").classes("pc-empty") as self._empty:
            self._hint = ui.label()
            self._fit_button = primary_button("Fit a model", open_fit)
        self._grid = ui.element("div").classes("pc-grid")
        self._only_defects.on_value_change(
            lambda event: self._grid.classes(
                add="pc-only-defects" if event.value else "", remove="" if event.value else "pc-only-defects"
            )
        )

    # Event handlers

    def _list_models(self) -> None:
        with self._program_change:
            self._model.set_options(list(self._site.models.paths()))

    def _choose_model(self, event: events.ValueChangeEventArguments[Any]) -> Awaitable[None] | None:
        # Not a coroutine function: it would start only after the program's own change has ended.
        return None if self._program_change or not event.value else self._open(event.value)

    async def _open(self, label: str) -> None:
        self._summary.set_text(f"Loading {label}")
        self._empty.set_visibility(False)
        loaded = await self._messages.attempt(lambda: self._site.models.open(label))
        if self._model.value != label:
            return  # The user has chosen another model meanwhile.
        if loaded is not None:
            await self.use(loaded)
            return
        previous = self._session.loaded
        with self._program_change:
            self._model.set_value(None if previous is None else self._site.models.label_of(previous))
        self._update()

    async def _upload(self, event: events.UploadEventArguments) -> None:
        if self._session.loaded is None:
            self._messages.error(f"{event.file.name}: no model loaded; choose or fit a model first")
            return
        if len(self._queue) >= self._site.limits.images or not self._site.sessions.accepts(event.file.size()):
            self._messages.error(f"{event.file.name}: too many images are waiting; try again later")
            return
        data = await event.file.read()
        if not self._is_open:
            return
        try:
            source = self._session.upload(event.file.name, data)
        except ImageError as error:
            self._messages.error(str(error))
            return
        await self._score([source])

    async def _inspect_folder(self) -> None:
        if self._session.loaded is None:
            self._messages.error("no model loaded; choose or fit a model first")
            return
        folder = self._folder.value or ""
        images = await self._messages.attempt(lambda: self._site.folders.images(folder))
        if images is None:
            return
        limit = self._site.limits.images
        if len(images) > limit:
            self._messages.note(truncation_note(folder.strip(), limit))
        await self._score([Source(name=str(path), file=path, is_upload=False) for path in images[:limit]])

    async def _score(self, sources: Sequence[Source]) -> None:
        """Queue images; score the queue unless another call does so already."""
        queued = [*self._batch, *self._queue]
        self._queue.extend(source for source in sources if source not in queued)
        if self._is_scoring:
            return
        self._is_scoring = True
        try:
            await self._score_queue()
        except Exception as error:
            unscored = [*self._batch, *self._queue]
            self._queue.clear()
            for source in unscored:
                self._session.delete_upload(source)
            if self._is_open:
                self._messages.error(f"{count_images(len(unscored))} could not be scored: {one_line(error)}")
            if not isinstance(error, PatchcoreError):
                raise  # A bug: the page shows the message, and the server logs the traceback.
        finally:
            self._is_scoring, self._batch = False, []
            if self._is_open:
                self._progress.set_visibility(False)
                self._update()

    async def _score_queue(self) -> None:
        done = 0
        while self._queue and self._session.loaded is not None and self._is_open:
            loaded = self._session.loaded
            self._batch = batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            self._show_progress(done, done + len(batch) + len(self._queue))
            results = await run.io_bound(score_images, loaded, self._site.limits, batch)
            if results is None or not self._is_open:
                return
            if self._session.loaded is not loaded:
                self._queue.extendleft(reversed(batch))
                continue
            self._batch = []
            done += len(batch)
            for source, result in results:
                if isinstance(result, ImageError):
                    self._session.delete_upload(source)
                    self._messages.error(str(result))
                else:
                    image = self._session.add(source, result)
                    with self._grid:
                        self._cards[image.number] = ImageCard(self._session, image, self._heat_map, self._dialog.open)
            self._site.sessions.enforce_memory_limit()
            self._update()

    # Updates of the page

    def _update(self) -> None:
        for number in [number for number in self._cards if number not in self._session.images]:
            self._cards.pop(number).remove()
        if self._session.dropped_count and not self._has_dropped_note:
            self._has_dropped_note = True
            limits = self._site.limits
            self._messages.note(
                f"The oldest images were removed: the limits are {limits.images} images per page and "
                f"{limits.memory / 1e9:g} GB for all pages. Use 'patchcore predict' for more."
            )
        self._empty.set_visibility(not self._cards)
        self._fit_button.set_visibility(self._session.loaded is None)
        if self._session.loaded is not None:
            self._hint.set_text(
                "Drop images or choose a folder. Each image gets a verdict, a heat map and an explanation."
            )
        elif self._model.options:
            self._hint.set_text("No model is loaded. Choose one above, or fit one on images of good parts.")
        else:
            self._hint.set_text("There is no model yet. Fit one on images of good parts.")
        self._results.set_visibility(bool(self._cards))
        self._threshold.update()
        self._update_verdicts()

    def _update_verdicts(self) -> None:
        for image_card in self._cards.values():
            image_card.update_verdict()
        self._summary.set_text(
            _summarise([self._session.is_anomalous(image) for image in self._session.images.values()])
        )

    def _update_outlines(self) -> None:
        for image_card in self._cards.values():
            image_card.layers.update_outlines()

    def _update_heat(self) -> None:
        for image_card in self._cards.values():
            image_card.layers.update_heat()

    def _update_links(self) -> None:
        base = f"sessions/{self._session.token}/results"
        self._links["jsonl"].props["href"] = f"{base}.jsonl"
        self._links["csv"].props["href"] = f"{base}.csv"
        self._links["zip"].props["href"] = f"{base}.zip?low={self._heat_map.low!r}&high={self._heat_map.high!r}"

    def _show_progress(self, done: int, total: int) -> None:
        self._progress.set_visibility(True)
        self._progress.set_value(done / total)
        self._empty.set_visibility(False)
        self._summary.set_text(f"Scoring images: {done} of {total}")

    def _list_numbers(self) -> list[int]:
        """Return the numbers of the listed images."""
        only_defects = self._only_defects.value
        return [number for number, image_card in self._cards.items() if image_card.is_defect or not only_defects]

    @property
    def _is_open(self) -> bool:
        return self._site.sessions.get(self._session.token) is self._session


def _summarise(verdicts: Sequence[bool | None]) -> str:
    if not verdicts:
        return "No images yet"
    defective, good = verdicts.count(True), verdicts.count(False)
    counts = f": {defective} defective, {good} good" if defective + good else ""
    return f"{count_images(len(verdicts))}{counts}"
