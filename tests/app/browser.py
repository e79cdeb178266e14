"""The running app, a browser window that reaches nothing else, and common actions on the page."""

from __future__ import annotations

import http.client
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, FilePayload, Locator, Page, Request, Route, WebSocket, expect

BACKBONE = "efficientnet-lite0"
SWITCHES = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
WAIT = 60_000
"""Milliseconds that an action may take on a busy machine."""


@dataclass
class RunningApp:
    """The running app, and its folders of images and models."""

    url: str
    images: Path
    models: Path

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Send a request without a browser; return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@dataclass
class BrowserWindow:
    """A browser window that reaches only the app, and records blocked URLs and errors."""

    page: Page
    url: str
    foreign_urls: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, context: BrowserContext, url: str) -> BrowserWindow:
        window = cls(context.new_page(), url)

        def route_request(route: Route, request: Request) -> None:
            if window.is_own(request.url):
                route.continue_()
            else:
                window.foreign_urls.append(request.url)
                route.abort()

        def check_socket(socket: WebSocket) -> None:
            if not window.is_own(socket.url.replace("ws://", "http://", 1)):
                window.foreign_urls.append(socket.url)

        context.route("**/*", route_request)
        window.page.on("websocket", check_socket)
        # A permanent listener keeps Playwright's interception of file choosers on. `expect_file_chooser` alone does not
        # wait until it is on: on a busy machine the key press came first, and Chromium cancelled the real chooser.
        window.page.on("filechooser", lambda chooser: None)
        window.page.on("pageerror", lambda error: window.errors.append(str(error)))
        window.page.on("console", lambda line: window.errors.append(line.text) if line.type == "error" else None)
        return window

    def is_own(self, url: str) -> bool:
        return url.startswith((f"{self.url}/", "data:", "blob:")) or url == self.url


def choose_backbone(page: Page) -> None:
    page.get_by_label("Backbone").fill(BACKBONE)
    page.get_by_role("option", name=BACKBONE, exact=True).click()


def fit(page: Page, name: str) -> None:
    page.get_by_role("tab", name="Fit").click()
    page.get_by_label("Folder with images of good parts").fill("train/good")
    choose_backbone(page)
    page.get_by_label("False-alarm rate (%)", exact=True).locator("visible=true").fill("10")
    page.get_by_role("button", name="Fit", exact=True).click()
    expect(page.get_by_text("Model fitted")).to_be_visible()
    expect(page.get_by_text("9.09%")).to_be_visible()
    page.get_by_label("New false-alarm rate (%)").fill("20")
    page.get_by_role("button", name="Set the new false-alarm rate").click()
    expect(page.get_by_text("18.18%")).to_be_visible()
    page.get_by_label("Model name").fill(name)
    page.get_by_role("button", name="Save and use").click()
    expect(page.get_by_text("Each image gets a verdict")).to_be_visible()


def upload(page: Page, *files: Path | tuple[str, bytes]) -> None:
    named = [(file.name, file.read_bytes()) if isinstance(file, Path) else file for file in files]
    payloads: list[FilePayload] = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in named]
    page.locator(".q-uploader__input").set_input_files(payloads)


def inspect_folder(page: Page, folder: str) -> None:
    page.get_by_label("Folder", exact=True).fill(folder)
    page.get_by_role("button", name="Inspect folder").click()


def cards(page: Page) -> Locator:
    return page.locator(".pc-image")


def verdicts(page: Page) -> dict[str, str]:
    captions = page.locator(".pc-caption").all_inner_texts()
    return {lines[1]: lines[0] for lines in (caption.splitlines() for caption in captions)}


def download(page: Page, name: str) -> bytes:
    with page.expect_download(timeout=WAIT) as waiting:
        page.get_by_role("link", name=name).click()
    return Path(waiting.value.path()).read_bytes()
