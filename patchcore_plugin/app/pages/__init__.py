"""The page, in NiceGUI: its layout and its reactions to the user."""

from __future__ import annotations

from importlib.resources import files

from nicegui import ui

from patchcore_plugin.app.model_store import LoadedModel
from patchcore_plugin.app.site import Site

from .fit import FitPanel
from .inspection import InspectPanel
from .widgets import heading


def register_page(site: Site) -> None:
    """Register the page with the NiceGUI server; call once per process.

    Parameters
    ----------
    site
        State that the pages share.
    """
    style, script = (files(__package__).joinpath(name).read_text("utf-8") for name in ("page.css", "folders.js"))

    @ui.page("/")
    def page() -> None:
        ui.add_css(style)
        ui.add_body_html(f"<script>{script}</script>")
        session = site.sessions.start()
        ui.context.client.on_delete(lambda: site.sessions.end(session))

        async def use(loaded: LoadedModel) -> None:
            tabs.set_value("inspect")
            await inspection.use(loaded)

        with ui.element("header").classes("pc-header"):
            heading("patchcore", "h1").classes("pc-brand")
            with ui.tabs().props('no-caps inline-label dense aria-label="Pages"').classes("pc-tabs") as tabs:
                ui.tab("inspect", "Inspect")
                ui.tab("fit", "Fit")
            model_area = ui.element("div").classes("pc-model")
        with ui.tab_panels(tabs, value="inspect", keep_alive=True, animated=False).classes("pc-panels"):
            with ui.tab_panel("inspect").classes("pc-panel"):
                inspection = InspectPanel(site, session, model_area, open_fit=lambda: tabs.set_value("fit"))
            with ui.tab_panel("fit").classes("pc-panel"):
                FitPanel(site, use)
