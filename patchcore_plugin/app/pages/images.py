"""Scored images: a card for each one in the list, and a dialog with one large image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath

from nicegui import ui

from patchcore_plugin.app.routes import SessionRoutes
from patchcore_plugin.app.session import ScoredImage, Session
from patchcore_plugin.evaluation.report.format import number as format_number

from .heatmap import HeatMapCard
from .widgets import heading

VERDICTS = {True: "Defect", False: "Good", None: "No threshold"}
VERDICT_CLASSES = {True: "pc-defect", False: "pc-good", None: ""}
MAX_REGIONS = 6
"""Number of regions that the dialog lists."""


class LayeredImage:
    """An image with its heat map and region outlines on top.

    Parameters
    ----------
    session
        Session of the image.
    image
        Image to show.
    heat_map
        Card with the colour scale.
    large
        Whether the image is shown in the dialog.
    """

    def __init__(self, session: Session, image: ScoredImage, heat_map: HeatMapCard, *, large: bool) -> None:
        self._session, self._heat_map, self._large = session, heat_map, large
        self._base = _url(session, image)
        anomaly_map = image.prediction.anomaly_map
        with ui.element("span").classes("pc-stack") as stack:
            base_image = _img(f"{self._base}/image.jpg?large={large}", f"Image {_short_name(image)}")
            self._heat = None if anomaly_map is None else _img("", "").classes("pc-heat")
            self._outlines = None if anomaly_map is None else _img("", "").classes("pc-outlines")
        if large and anomaly_map is not None:
            height, width = anomaly_map.shape
            stack.style(f"aspect-ratio: {width} / {height}; width: min(100%, calc(76vh * {width / height:.4f}))")
        if not large:
            base_image.props["loading"] = "lazy"
        self.update_heat()
        self.update_outlines()

    def update_heat(self) -> None:
        """Draw the heat map on the current colour scale."""
        if self._heat is not None:
            scale = f"low={self._heat_map.low!r}&high={self._heat_map.high!r}"
            self._heat.props["src"] = f"{self._base}/heat.png?{scale}&large={self._large}"

    def update_outlines(self) -> None:
        """Draw the regions at the current threshold."""
        calibration = self._session.calibration
        if self._outlines is not None and calibration is not None and calibration.map_threshold is not None:
            self._outlines.props["src"] = f"{self._base}/outlines.svg?above={calibration.map_threshold!r}"


class ImageCard:
    """A scored image in the list.

    Parameters
    ----------
    session, image, heat_map
        See `LayeredImage`.
    on_click
        Called with the number of the image.
    """

    def __init__(
        self, session: Session, image: ScoredImage, heat_map: HeatMapCard, on_click: Callable[[int], object]
    ) -> None:
        self._session, self.image = session, image
        prediction = image.prediction
        with ui.element("button").classes("pc-image").on("click", lambda: on_click(image.number)) as self._root:
            self._root.props["type"] = "button"
            self.layers = LayeredImage(session, image, heat_map, large=False)
            with ui.element("span").classes("pc-caption"):
                self._verdict = _label("").classes("pc-verdict")
                _label(_short_name(image)).classes("pc-name").props["title"] = image.source.name
                with ui.element("span").classes("pc-figures"):
                    _label(f"score {format_number(prediction.score)}")
                    if prediction.p_value is not None:
                        _label(f"p-value {prediction.p_value:.2g}")
        self._is_anomalous: bool | None = None
        self._show_verdict()

    @property
    def is_defect(self) -> bool:
        """Whether the card shows a defect."""
        return self._is_anomalous is True

    def update_verdict(self) -> None:
        """Show the verdict at the current threshold."""
        if self._is_anomalous != self._session.is_anomalous(self.image):
            self._show_verdict()

    def _show_verdict(self) -> None:
        self._is_anomalous = self._session.is_anomalous(self.image)
        self._verdict.set_text(VERDICTS[self._is_anomalous])
        self._verdict.classes(remove="pc-defect pc-good", add=VERDICT_CLASSES[self._is_anomalous])
        self._root.classes(remove="pc-is-defect", add="pc-is-defect" if self._is_anomalous else "")

    def remove(self) -> None:
        """Remove the card from the page."""
        self._root.delete()


class ImageDialog:
    """A dialog with one large image, its scores, its regions and its explanation.

    Parameters
    ----------
    session, heat_map
        See `LayeredImage`.
    routes
        Routes that serve the explanations.
    list_numbers
        Function that returns the numbers of the listed images in order.
    """

    def __init__(
        self,
        session: Session,
        heat_map: HeatMapCard,
        routes: SessionRoutes,
        list_numbers: Callable[[], Sequence[int]],
    ) -> None:
        self._session, self._heat_map, self._routes, self._list_numbers = session, heat_map, routes, list_numbers
        self._number = 0
        with ui.dialog().props('aria-label="Image"') as self._dialog, ui.card().classes("pc-view").props("flat"):
            # The buttons are created once, so that the pressed one keeps the focus from image to image.
            with ui.element("div").classes("pc-view-head pc-wide"):
                self._title = ui.label().classes("pc-name")
                with ui.element("div").classes("pc-buttons").style("flex-wrap: nowrap"):
                    ui.button("Previous", on_click=lambda: self._step(-1)).props("flat dense no-caps")
                    ui.button("Next", on_click=lambda: self._step(1)).props("flat dense no-caps")
                    ui.button("Close", on_click=self._dialog.close).props("flat dense no-caps")
            self._body = ui.element("div").classes("pc-view-body pc-wide")

    def open(self, number: int) -> None:
        """Show an image, if the session still has it."""
        image = self._session.images.get(number)
        if image is None or self._session.calibration is None:
            return
        self._number, numbers = number, list(self._list_numbers())
        position = f" ({numbers.index(number) + 1} of {len(numbers)})" if number in numbers else ""
        self._title.set_text(_short_name(image) + position)
        self._title.props["title"] = image.source.name
        self._body.clear()
        with self._body:
            LayeredImage(self._session, image, self._heat_map, large=True)
            with ui.element("div").classes("pc-column"):
                self._show_facts(image)
                self._show_explanation(image)
        self._dialog.open()

    def _step(self, step: int) -> None:
        """Show the previous or next listed image; the list wraps around."""
        numbers = list(self._list_numbers())
        if numbers:
            # The current image may have left the list.
            index = sum(number < self._number for number in numbers) - (step > 0 and self._number not in numbers)
            self.open(numbers[(index + step) % len(numbers)])

    def _show_facts(self, image: ScoredImage) -> None:
        assert self._session.calibration is not None
        prediction = image.apply(self._session.calibration)
        verdict = ui.label(VERDICTS[prediction.is_anomalous]).props('role="status"')
        verdict.classes(f"pc-verdict {VERDICT_CLASSES[prediction.is_anomalous]}")
        facts = [("Score", format_number(prediction.score)), ("Threshold", format_number(prediction.threshold))]
        if prediction.p_value is not None:
            rarity = f"at most {prediction.p_value:.2%} of good images score this high"
            facts.append(("p-value", f"{prediction.p_value:.2g} ({rarity})"))
        _show_list(facts)
        if prediction.anomaly_map is None:
            return
        regions = prediction.regions
        heading("Regions" if regions else "No region above the map threshold")
        _show_list(
            [
                (
                    f"{region.width} x {region.height} px",
                    f"at ({region.x}, {region.y}), area {region.area:,} px, peak {format_number(region.peak)}",
                )
                for region in regions[:MAX_REGIONS]
            ]
        )
        if len(regions) > MAX_REGIONS:
            ui.label(f"{len(regions) - MAX_REGIONS} more in the downloaded results").classes("pc-soft")

    def _show_explanation(self, image: ScoredImage) -> None:
        nearest = image.prediction.nearest
        if nearest is None or self._session.loaded is None:
            return
        heading("Explanation")
        source = "a training image" if nearest.image is None else PurePath(nearest.image).name
        normal = f"the nearest normal patch, in {source} at ({nearest.x}, {nearest.y})"
        if self._routes.has_explanation(self._session.loaded.model, nearest):
            url = f"{_url(self._session, image)}/explanation.png"
            _img(url, f"The most anomalous patch next to {normal}").classes("pc-explanation")
            ui.label(f"Left: the most anomalous patch. Right: {normal}.").classes("pc-soft")
        else:
            ui.label(f"The most anomalous patch is at ({nearest.peak_x}, {nearest.peak_y}). Compared with {normal}.")
            ui.label(
                "The training image cannot be shown: it is outside the --images folders, and there is no thumbnail."
            ).classes("pc-soft")


def _url(session: Session, image: ScoredImage) -> str:
    return f"sessions/{session.token}/{image.number}"


def _img(url: str, alt: str) -> ui.element:
    element = ui.element("img")
    element.props["alt"] = alt
    if url:
        element.props["src"] = url
    return element


def _label(text: str, tag: str = "span") -> ui.label:
    label = ui.label(text)
    label.tag = tag
    return label


def _show_list(pairs: Sequence[tuple[str, str]]) -> None:
    with ui.element("dl").classes("pc-facts"):
        for term, description in pairs:
            _label(term, "dt"), _label(description, "dd")


def _short_name(image: ScoredImage) -> str:
    # With its folder, because data sets repeat file names across folders.
    return str(PurePath(*PurePath(image.source.name).parts[-2:]))
