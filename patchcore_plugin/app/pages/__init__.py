"""The page itself, in NiceGUI: what is seen, and what happens when something is touched."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from nicegui import ui

from .fit import FitPanel
from .judge import JudgePanel
from .parts import heading

if TYPE_CHECKING:
    from patchcore_plugin.app.library import Loaded
    from patchcore_plugin.app.site import Site


FILES = ("page.css", "folders.js")


def register(site: Site) -> None:
    """Let the server show the page; once in a process."""
    style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in FILES)

    @ui.page("/")
    def page() -> None:
        ui.add_css(style)
        ui.add_body_html(f"<script>{script}</script>")
        visit = site.visits.start()
        ui.context.client.on_delete(lambda: site.visits.end(visit))

        async def use(loaded: Loaded) -> None:
            tabs.set_value("judge")
            await judging.use(loaded)

        with ui.element("header").classes("pc-header"):
            heading("patchcore", "h1").classes("pc-brand")
            with ui.tabs().props('no-caps inline-label dense aria-label="Pages"').classes("pc-tabs") as tabs:
                ui.tab("judge", "Judge")
                ui.tab("fit", "Fit")
            chooser = ui.element("div").classes("pc-model")
        with ui.tab_panels(tabs, value="judge", keep_alive=True, animated=False).classes("pc-panels"):
            with ui.tab_panel("judge").classes("pc-panel"):
                judging = JudgePanel(site, visit, chooser, to_fit=lambda: tabs.set_value("fit"))
            with ui.tab_panel("fit").classes("pc-panel"):
                FitPanel(site, use)
