"""Images to verdicts: choose images, look at them, and move the threshold."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from nicegui import events, run, ui

from patchcore_plugin.app.visit import Source, judge
from patchcore_plugin.app.words import one_line
from patchcore_plugin.errors import ImageError, PatchcoreError

from .colours import ColoursCard
from .images import Card, View
from .parts import Messages, Quiet, card, folder_input, primary
from .threshold import ThresholdCard
from .uploads import Uploads, too_many

if TYPE_CHECKING:
    from patchcore_plugin.app.library import Loaded
    from patchcore_plugin.app.site import Site
    from patchcore_plugin.app.visit import Visit

BATCH = 8
"""Images that are judged at once; after each the page shows them."""


class JudgePanel:
    """Everything of the page but the fit.

    Parameters
    ----------
    site
        What is behind the page.
    visit
        Whose page it is.
    chooser
        Where the choice of the model goes.
    to_fit
        Called to show where models are fitted.
    """

    def __init__(self, site: Site, visit: Visit, chooser: ui.element, to_fit: Callable[[], object]) -> None:
        self._site, self._visit = site, visit
        self._waiting: deque[Source] = deque()
        self._batch: list[Source] = []
        self._judging = self._told_of_dropped = False
        self._quiet = Quiet()
        self._messages = Messages()
        self._cards: dict[int, Card] = {}
        with chooser:
            self._model = ui.select({}, label="Model", on_change=self._choose_model)
            self._model.props("outlined dense options-dense").classes("pc-wide").on("click", self._list_models)
        with ui.element("div").classes("pc-judge"):
            self._build_images()
            with ui.element("div").classes("pc-column pc-list"):
                self._build_list(to_fit)
            with ui.element("div").classes("pc-column"):
                self._threshold = ThresholdCard(visit, self._messages, self._show_verdicts, self._show_outlines)
                self._colours = ColoursCard(self._show_links, self._show_heat)
                self._build_results()
                self._show_links()
        self._view = View(visit, self._colours, site.pictures, self._listed)
        self._list_models()
        first = next(iter(site.library.paths()), None)
        if first is None:
            self._show_all()
        else:
            with self._quiet:
                self._model.set_value(first)
            ui.timer(0, lambda: self._open(first), once=True)

    async def use(self, loaded: Loaded) -> None:
        """Judge with another model from now on, the images that are here included."""
        again = self._visit.use(loaded)
        for each in self._cards.values():
            each.remove()
        self._cards.clear()
        self._list_models()
        with self._quiet:
            self._model.set_value(self._site.library.label_of(loaded))
        self._colours.set_scale(*loaded.calibration.map_scale)
        self._show_all()
        await self._judge(again)

    # What is built once

    def _build_images(self) -> None:
        with card("Images"):
            Uploads(self._site.limits, self._messages, self._uploaded)
            if self._site.folders.roots:
                self._folder = folder_input(self._site.folders.suggestions())
                primary("Judge the folder", self._judge_folder)
            else:
                ui.label("Start the app with --images FOLDER to judge folders of this machine.").classes("pc-soft")

    def _build_results(self) -> None:
        with card("Results") as self._results, ui.element("div").classes("pc-downloads"):
            self._links = {}
            for kind, text in (("jsonl", "results.jsonl"), ("csv", "results.csv"), ("zip", "All with pictures (zip)")):
                link = ui.label(text)
                link.tag = "a"
                link.props["download"] = f"results.{kind}"
                self._links[kind] = link

    def _build_list(self, to_fit: Callable[[], object]) -> None:
        self._messages.place()
        with ui.element("div").classes("pc-summary"):
            self._count = ui.label().classes("pc-count").props('role="status"')
            self._only = ui.switch("Defects only").props("dense")
        self._progress = ui.linear_progress(0, show_value=False).props('instant-feedback aria-label="Judging images"')
        self._progress.set_visibility(False)
        with ui.element("div").classes("pc-empty") as self._empty:
            self._hint = ui.label()
            self._to_fit = primary("Fit a model", to_fit)
        self._grid = ui.element("div").classes("pc-grid")
        self._only.on_value_change(
            lambda event: self._grid.classes(
                add="pc-only-defects" if event.value else "", remove="" if event.value else "pc-only-defects"
            )
        )

    # What the visitor does

    def _list_models(self) -> None:
        with self._quiet:
            self._model.set_options(list(self._site.library.paths()))

    def _choose_model(self, event: events.ValueChangeEventArguments[Any]) -> Awaitable[None] | None:
        # No coroutine: it would begin after the program's own change, when nothing is quiet any more.
        return None if self._quiet or not event.value else self._open(event.value)

    async def _open(self, label: str) -> None:
        self._count.set_text(f"Loading {label}")
        self._empty.set_visibility(False)
        loaded = await self._messages.attempt(lambda: self._site.library.open(label))
        if self._model.value != label:
            return  # Another one was chosen meanwhile.
        if loaded is not None:
            await self.use(loaded)
            return
        before = self._visit.loaded
        with self._quiet:
            self._model.set_value(None if before is None else self._site.library.label_of(before))
        self._show_all()

    async def _uploaded(self, event: events.UploadEventArguments) -> None:
        if self._visit.loaded is None:
            self._messages.error(f"{event.file.name}: no model to judge it with; choose one, or fit one")
            return
        if len(self._waiting) >= self._site.limits.images or not self._site.visits.has_room(event.file.size()):
            self._messages.error(f"{event.file.name}: too many images wait already; give it again later")
            return
        data = await event.file.read()
        if not self._is_open:
            return
        try:
            source = self._visit.upload(event.file.name, data)
        except ImageError as error:
            self._messages.error(str(error))
            return
        await self._judge([source])

    async def _judge_folder(self) -> None:
        if self._visit.loaded is None:
            self._messages.error("no model to judge the folder with; choose one, or fit one")
            return
        text = self._folder.value or ""
        found = await self._messages.attempt(lambda: self._site.folders.images(text))
        if found is None:
            return
        kept = self._site.limits.images
        if len(found) > kept:
            self._messages.note(too_many(text.strip(), kept))
        await self._judge([Source(name=str(path), file=path, owned=False) for path in found[:kept]])

    async def _judge(self, sources: Sequence[Source]) -> None:
        """Judge images after those that wait already."""
        coming = [*self._batch, *self._waiting]
        self._waiting.extend(source for source in sources if source not in coming)
        if self._judging:
            return
        self._judging = True
        done = 0
        try:
            while self._waiting and self._visit.loaded is not None and self._is_open:
                loaded = self._visit.loaded
                self._batch = batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                self._show_progress(done, done + len(batch) + len(self._waiting))
                self._empty.set_visibility(False)
                found = await run.io_bound(judge, loaded, self._site.limits, batch)
                if found is None or not self._is_open:
                    return
                if self._visit.loaded is not loaded:
                    self._waiting.extendleft(reversed(batch))
                    continue
                self._batch = []
                done += len(batch)
                for source, answer in found:
                    if isinstance(answer, ImageError):
                        self._visit.forget(source)
                        self._messages.error(str(answer))
                    else:
                        image = self._visit.add(source, answer)
                        with self._grid:
                            self._cards[image.number] = Card(self._visit, image, self._colours, self._view.open)
                self._site.visits.make_room()
                self._show_all()
        except Exception as error:
            left = [*self._batch, *self._waiting]
            self._waiting.clear()
            for source in left:
                self._visit.forget(source)
            if self._is_open:
                self._messages.error(f"{_count_of(left, 'image')} not judged: {one_line(error)}")
            if not isinstance(error, PatchcoreError):
                raise  # A bug: told in the page, and by its traceback.
        finally:
            self._judging, self._batch = False, []
            if self._is_open:
                self._progress.set_visibility(False)
                self._show_all()

    # What is shown

    def _show_all(self) -> None:
        for gone in [key for key in self._cards if key not in self._visit.images]:
            self._cards.pop(gone).remove()
        if self._visit.dropped and not self._told_of_dropped:
            self._told_of_dropped = True
            limits = self._site.limits
            kept = f"{limits.images} images, and {limits.memory / 1e9:g} GB of maps and uploads of all visitors"
            self._messages.note(
                f"The oldest images are gone: the page keeps {kept}. For more there is 'patchcore predict'."
            )
        self._empty.set_visibility(not self._cards)
        self._to_fit.set_visibility(self._visit.loaded is None)
        if self._visit.loaded is not None:
            self._hint.set_text("Drop images, or choose a folder: each gets a verdict, a heat map and a reason.")
        elif self._model.options:
            self._hint.set_text("No model is loaded. Choose one above, or fit one on images of good parts.")
        else:
            self._hint.set_text("There is no model yet. Fit one on images of good parts.")
        self._results.set_visibility(bool(self._cards))
        self._threshold.show()
        self._show_verdicts()

    def _show_verdicts(self) -> None:
        for each in self._cards.values():
            each.show_verdict()
        self._count.set_text(_count([self._visit.verdict(image) for image in self._visit.images.values()]))

    def _show_outlines(self) -> None:
        for each in self._cards.values():
            each.picture.show_outlines()

    def _show_heat(self) -> None:
        for each in self._cards.values():
            each.picture.show_heat()

    def _show_links(self) -> None:
        base = f"visits/{self._visit.token}/results"
        self._links["jsonl"].props["href"] = f"{base}.jsonl"
        self._links["csv"].props["href"] = f"{base}.csv"
        self._links["zip"].props["href"] = f"{base}.zip?low={self._colours.low!r}&high={self._colours.high!r}"

    def _show_progress(self, done: int, total: int) -> None:
        self._progress.set_visibility(True)
        self._progress.set_value(done / total)
        self._count.set_text(f"Judging images: {done} of {total}")

    def _listed(self) -> list[int]:
        return [number for number, each in self._cards.items() if each.is_defect or not self._only.value]

    @property
    def _is_open(self) -> bool:
        return self._site.visits.get(self._visit.token) is self._visit


def _count_of(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _count(verdicts: Sequence[bool | None]) -> str:
    if not verdicts:
        return "No images yet"
    defects, good = verdicts.count(True), verdicts.count(False)
    images = _count_of(verdicts, "image")
    if not defects + good:
        return images
    return f"{images}: {defects} defect{'s' * (defects != 1)}, {good} good"
