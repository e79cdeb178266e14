"""The judged photos: one card each, and one alone, large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from nicegui import ui

from .parts import heading, number

if TYPE_CHECKING:
    from patchcore_plugin.app.pictures import Pictures
    from patchcore_plugin.app.visit import Photo, Visit

    from .colours import ColoursCard

WORDS = {True: "Defect", False: "Good", None: "No threshold"}
KINDS = {True: "pc-defect", False: "pc-good", None: ""}


class Picture:
    """A photo below its heat and the outlines of its regions.

    Parameters
    ----------
    visit, photo
        Whose picture it is.
    colours
        Has the scale.
    large
        Whether it is shown alone.
    """

    def __init__(self, visit: Visit, photo: Photo, colours: ColoursCard, *, large: bool) -> None:
        self._visit, self._colours, self._large = visit, colours, large
        self._base = f"visits/{visit.token}/{photo.number}"
        self._has_map = photo.found.anomaly_map is not None
        with ui.element("span").classes("pc-stack") as stack:
            shown = _image(f"{self._base}/photo.jpg?large={large}", f"Photo {_short(photo)}")
            self._heat = _image("", "").classes("pc-heat") if self._has_map else None
            self._outlines = _image("", "").classes("pc-outlines") if self._has_map else None
        if large and photo.found.anomaly_map is not None:
            height, width = photo.found.anomaly_map.shape
            stack.style(f"aspect-ratio: {width} / {height}; width: min(100%, calc(76vh * {width / height:.4f}))")
        if not large:
            shown.props["loading"] = "lazy"
        self.show_heat()
        self.show_outlines()

    def show_heat(self) -> None:
        """Draw the heat on the present scale."""
        if self._heat is not None:
            scale = f"low={self._colours.low!r}&high={self._colours.high!r}"
            self._heat.props["src"] = f"{self._base}/heat.png?{scale}&large={self._large}"

    def show_outlines(self) -> None:
        """Draw the regions at the present threshold."""
        calibration = self._visit.calibration
        if self._outlines is not None and calibration is not None and calibration.map_threshold is not None:
            self._outlines.props["src"] = f"{self._base}/outlines.svg?above={calibration.map_threshold!r}"


class Card:
    """A judged photo in the list."""

    def __init__(self, visit: Visit, photo: Photo, colours: ColoursCard, on_click: Callable[[int], object]) -> None:
        self._visit, self.photo = visit, photo
        with ui.element("button").classes("pc-photo").on("click", lambda: on_click(photo.number)) as self._root:
            self._root.props["type"] = "button"
            self.picture = Picture(visit, photo, colours, large=False)
            with ui.element("span").classes("pc-caption"):
                self._verdict = _label("").classes("pc-verdict")
                _label(_short(photo)).classes("pc-name").props["title"] = photo.source.name
                with ui.element("span").classes("pc-figures"):
                    _figures(photo)
        self._shown: tuple[bool | None] | None = None
        self.show_verdict()

    @property
    def is_defect(self) -> bool:
        """Whether it is shown as one."""
        return self._shown == (True,)

    def show_verdict(self) -> None:
        """Say what the present threshold makes of it."""
        verdict = self._visit.verdict(self.photo)
        if self._shown != (verdict,):
            self._shown = (verdict,)
            self._verdict.set_text(WORDS[verdict])
            self._verdict.classes(remove="pc-defect pc-good", add=KINDS[verdict])
            self._root.classes(remove="pc-is-defect", add="pc-is-defect" if verdict else "")

    def remove(self) -> None:
        """Take it out of the page."""
        self._root.delete()


class View:
    """A dialog with one photo, large, and all that is known of it.

    Parameters
    ----------
    visit, colours, pictures
        Where photos, scale and reasons come from.
    listed
        Returns the numbers of the photos that are listed, in their order.
    """

    def __init__(
        self, visit: Visit, colours: ColoursCard, pictures: Pictures, listed: Callable[[], Sequence[int]]
    ) -> None:
        self._visit, self._colours, self._pictures, self._listed = visit, colours, pictures, listed
        self._number = 0
        with ui.dialog().props('aria-label="Photo"') as self._dialog, ui.card().classes("pc-view").props("flat"):
            # The buttons stay from photo to photo, so that the one that was pressed keeps the focus.
            with ui.element("div").classes("pc-view-head pc-wide"):
                self._title = ui.label().classes("pc-name")
                with ui.element("div").classes("pc-buttons").style("flex-wrap: nowrap"):
                    ui.button("Previous", on_click=lambda: self._step(-1)).props("flat dense no-caps")
                    ui.button("Next", on_click=lambda: self._step(1)).props("flat dense no-caps")
                    ui.button("Close", on_click=self._dialog.close).props("flat dense no-caps")
            self._body = ui.element("div").classes("pc-view-body pc-wide")

    def open(self, number_of: int) -> None:
        """Show a photo, if it is kept still."""
        photo = self._visit.photos.get(number_of)
        if photo is None or self._visit.calibration is None:
            return
        self._number, numbers = number_of, list(self._listed())
        place = f", {numbers.index(number_of) + 1} of {len(numbers)}" if number_of in numbers else ""
        self._title.set_text(_short(photo) + place)
        self._title.props["title"] = photo.source.name
        self._body.clear()
        with self._body:
            Picture(self._visit, photo, self._colours, large=True)
            with ui.element("div").classes("pc-column"):
                self._facts(photo)
                self._why(photo)
        self._dialog.open()

    def _step(self, step: int) -> None:
        """Show the photo before or after this one in the list; after the last one comes the first."""
        numbers = list(self._listed())
        if numbers:
            # The photo that is shown may have left the list.
            place = sum(each < self._number for each in numbers) - (step > 0 and self._number not in numbers)
            self.open(numbers[(place + step) % len(numbers)])

    def _facts(self, photo: Photo) -> None:
        assert self._visit.calibration is not None
        found = photo.against(self._visit.calibration)
        verdict = ui.label(WORDS[found.is_anomalous]).classes(f"pc-verdict {KINDS[found.is_anomalous]}")
        verdict.props["role"] = "status"
        facts = [("Score", number(found.score)), ("Threshold", number(found.threshold))]
        if found.p_value is not None:
            rare = f"at most {found.p_value:.2%} of good photos score as high"
            facts.append(("p-value", f"{found.p_value:.2g}: {rare}"))
        with ui.element("dl").classes("pc-facts"):
            for name, value in facts:
                _label(name, "dt"), _label(value, "dd")
        if found.anomaly_map is None:
            return
        heading("Regions" if found.regions else "No regions above the threshold of the map")
        with ui.element("dl").classes("pc-facts"):
            for region in found.regions[:6]:
                _label(f"{region.width} x {region.height} px", "dt")
                _label(f"at {region.x}, {region.y}; area {region.area:,} px, peak {number(region.peak)}", "dd")
        if len(found.regions) > 6:
            ui.label(f"and {len(found.regions) - 6} more, in the results").classes("pc-soft")

    def _why(self, photo: Photo) -> None:
        nearest = photo.found.nearest
        if nearest is None or self._visit.loaded is None:
            return
        heading("Why")
        name = "a training photo" if nearest.photo is None else PurePath(nearest.photo).name
        words = f"the nearest normal patch, in {name} at {nearest.x}, {nearest.y}"
        if self._pictures.has_why(self._visit.loaded.model, nearest):
            address = f"visits/{self._visit.token}/{photo.number}/why.png"
            _image(address, f"The most suspicious patch beside {words}").classes("pc-why")
            ui.label(f"Left: the most suspicious patch. Right: {words}.").classes("pc-soft")
        else:
            ui.label(f"The most suspicious patch, at {nearest.peak_x}, {nearest.peak_y}, was held against {words}.")
            ui.label(
                "Its photo cannot be shown: it is not in a folder of --photos, and the model keeps no thumbnails."
            ).classes("pc-soft")


def _image(address: str, alt: str) -> ui.element:
    image = ui.element("img")
    image.props["alt"] = alt
    if address:
        image.props["src"] = address
    return image


def _label(text: str, tag: str = "span") -> ui.label:
    label = ui.label(text)
    label.tag = tag
    return label


def _short(photo: Photo) -> str:
    # Photos of a data set are called alike in its folders.
    return str(PurePath(*PurePath(photo.source.name).parts[-2:]))


def _figures(photo: Photo) -> None:
    p_value = photo.found.p_value
    _label(f"score {number(photo.found.score)}")
    if p_value is not None:
        _label(f"p-value {p_value:.2g}")
