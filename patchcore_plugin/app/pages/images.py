"""The judged images: one card each, and one alone, large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from nicegui import ui

from .parts import heading, number

if TYPE_CHECKING:
    from patchcore_plugin.app.pictures import Pictures
    from patchcore_plugin.app.visit import Image, Visit

    from .colours import ColoursCard

WORDS = {True: "Defect", False: "Good", None: "No threshold"}
KINDS = {True: "pc-defect", False: "pc-good", None: ""}


class Picture:
    """An image below its heat and the outlines of its regions.

    Parameters
    ----------
    visit, image
        Whose picture it is.
    colours
        Has the scale.
    large
        Whether it is shown alone.
    """

    def __init__(self, visit: Visit, image: Image, colours: ColoursCard, *, large: bool) -> None:
        self._visit, self._colours, self._large = visit, colours, large
        self._base = f"visits/{visit.token}/{image.number}"
        self._has_map = image.found.anomaly_map is not None
        with ui.element("span").classes("pc-stack") as stack:
            shown = _img(f"{self._base}/image.jpg?large={large}", f"Image {_short(image)}")
            self._heat = _img("", "").classes("pc-heat") if self._has_map else None
            self._outlines = _img("", "").classes("pc-outlines") if self._has_map else None
        if large and image.found.anomaly_map is not None:
            height, width = image.found.anomaly_map.shape
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
    """A judged image in the list."""

    def __init__(self, visit: Visit, image: Image, colours: ColoursCard, on_click: Callable[[int], object]) -> None:
        self._visit, self.image = visit, image
        with ui.element("button").classes("pc-image").on("click", lambda: on_click(image.number)) as self._root:
            self._root.props["type"] = "button"
            self.picture = Picture(visit, image, colours, large=False)
            with ui.element("span").classes("pc-caption"):
                self._verdict = _label("").classes("pc-verdict")
                _label(_short(image)).classes("pc-name").props["title"] = image.source.name
                with ui.element("span").classes("pc-figures"):
                    _figures(image)
        self._shown: tuple[bool | None] | None = None
        self.show_verdict()

    @property
    def is_defect(self) -> bool:
        """Whether it is shown as one."""
        return self._shown == (True,)

    def show_verdict(self) -> None:
        """Say what the present threshold makes of it."""
        verdict = self._visit.verdict(self.image)
        if self._shown != (verdict,):
            self._shown = (verdict,)
            self._verdict.set_text(WORDS[verdict])
            self._verdict.classes(remove="pc-defect pc-good", add=KINDS[verdict])
            self._root.classes(remove="pc-is-defect", add="pc-is-defect" if verdict else "")

    def remove(self) -> None:
        """Take it out of the page."""
        self._root.delete()


class View:
    """A dialog with one image, large, and all that is known of it.

    Parameters
    ----------
    visit, colours, pictures
        Where images, scale and reasons come from.
    listed
        Returns the numbers of the images that are listed, in their order.
    """

    def __init__(
        self, visit: Visit, colours: ColoursCard, pictures: Pictures, listed: Callable[[], Sequence[int]]
    ) -> None:
        self._visit, self._colours, self._pictures, self._listed = visit, colours, pictures, listed
        self._number = 0
        with ui.dialog().props('aria-label="Image"') as self._dialog, ui.card().classes("pc-view").props("flat"):
            # The buttons stay from image to image, so that the one that was pressed keeps the focus.
            with ui.element("div").classes("pc-view-head pc-wide"):
                self._title = ui.label().classes("pc-name")
                with ui.element("div").classes("pc-buttons").style("flex-wrap: nowrap"):
                    ui.button("Previous", on_click=lambda: self._step(-1)).props("flat dense no-caps")
                    ui.button("Next", on_click=lambda: self._step(1)).props("flat dense no-caps")
                    ui.button("Close", on_click=self._dialog.close).props("flat dense no-caps")
            self._body = ui.element("div").classes("pc-view-body pc-wide")

    def open(self, number_of: int) -> None:
        """Show an image, if it is kept still."""
        image = self._visit.images.get(number_of)
        if image is None or self._visit.calibration is None:
            return
        self._number, numbers = number_of, list(self._listed())
        place = f", {numbers.index(number_of) + 1} of {len(numbers)}" if number_of in numbers else ""
        self._title.set_text(_short(image) + place)
        self._title.props["title"] = image.source.name
        self._body.clear()
        with self._body:
            Picture(self._visit, image, self._colours, large=True)
            with ui.element("div").classes("pc-column"):
                self._facts(image)
                self._why(image)
        self._dialog.open()

    def _step(self, step: int) -> None:
        """Show the image before or after this one in the list; after the last one comes the first."""
        numbers = list(self._listed())
        if numbers:
            # The image that is shown may have left the list.
            place = sum(each < self._number for each in numbers) - (step > 0 and self._number not in numbers)
            self.open(numbers[(place + step) % len(numbers)])

    def _facts(self, image: Image) -> None:
        assert self._visit.calibration is not None
        found = image.against(self._visit.calibration)
        verdict = ui.label(WORDS[found.is_anomalous]).classes(f"pc-verdict {KINDS[found.is_anomalous]}")
        verdict.props["role"] = "status"
        facts = [("Score", number(found.score)), ("Threshold", number(found.threshold))]
        if found.p_value is not None:
            rare = f"at most {found.p_value:.2%} of good images score as high"
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

    def _why(self, image: Image) -> None:
        nearest = image.found.nearest
        if nearest is None or self._visit.loaded is None:
            return
        heading("Why")
        name = "a training image" if nearest.image is None else PurePath(nearest.image).name
        words = f"the nearest normal patch, in {name} at {nearest.x}, {nearest.y}"
        if self._pictures.has_why(self._visit.loaded.model, nearest):
            address = f"visits/{self._visit.token}/{image.number}/why.png"
            _img(address, f"The most suspicious patch beside {words}").classes("pc-why")
            ui.label(f"Left: the most suspicious patch. Right: {words}.").classes("pc-soft")
        else:
            ui.label(f"The most suspicious patch, at {nearest.peak_x}, {nearest.peak_y}, was held against {words}.")
            ui.label(
                "Its image cannot be shown: it is not in a folder of --images, and the model keeps no thumbnails."
            ).classes("pc-soft")


def _img(address: str, alt: str) -> ui.element:
    element = ui.element("img")
    element.props["alt"] = alt
    if address:
        element.props["src"] = address
    return element


def _label(text: str, tag: str = "span") -> ui.label:
    label = ui.label(text)
    label.tag = tag
    return label


def _short(image: Image) -> str:
    # Images of a data set are called alike in its folders.
    return str(PurePath(*PurePath(image.source.name).parts[-2:]))


def _figures(image: Image) -> None:
    p_value = image.found.p_value
    _label(f"score {number(image.found.score)}")
    if p_value is not None:
        _label(f"p-value {p_value:.2g}")
