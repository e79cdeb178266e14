"""The running app as its command starts it, a browser window that reaches nothing else, and what is done in both."""

from __future__ import annotations

import http.client
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, FilePayload, Locator, Page, Request, Route, WebSocket, expect

BACKBONE = "efficientnet-lite0"
SWITCHES = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
WAIT = 30_000
"""Milliseconds that something may take on a busy machine."""


@dataclass
class Place:
    """The running app, and the images that it may read."""

    address: str
    images: Path
    models: Path

    @property
    def port(self) -> int:
        port = urlsplit(self.address).port
        assert port is not None
        return port

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Return status and body of a request that no browser made."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@dataclass
class Watched:
    """A browser window: nothing but the app can be reached from it, and what was tried is remembered."""

    page: Page
    address: str
    elsewhere: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, context: BrowserContext, address: str) -> Watched:
        watched = cls(context.new_page(), address)

        def look(route: Route, request: Request) -> None:
            if watched.is_own(request.url):
                route.continue_()
            else:
                watched.elsewhere.append(request.url)
                route.abort()

        def connected(socket: WebSocket) -> None:
            if not watched.is_own(socket.url.replace("ws://", "http://", 1)):
                watched.elsewhere.append(socket.url)

        context.route("**/*", look)
        watched.page.on("websocket", connected)
        watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
        watched.page.on("console", lambda said: watched.errors.append(said.text) if said.type == "error" else None)
        return watched

    def is_own(self, url: str) -> bool:
        return url.startswith((f"{self.address}/", "data:", "blob:")) or url == self.address


def fit(page: Page, name: str) -> None:
    page.get_by_role("tab", name="Fit").click()
    page.get_by_label("Folder of images of good parts").fill("train/good")
    page.get_by_label("Backbone").fill(BACKBONE)
    page.get_by_role("option", name=BACKBONE, exact=True).click()
    page.get_by_label("False-alarm rate, %", exact=True).locator("visible=true").fill("10")
    page.get_by_role("button", name="Fit", exact=True).click()
    expect(page.get_by_text("The model is fitted")).to_be_visible()
    expect(page.get_by_text("at most 9.09% false alarms; scores of 10 good images")).to_be_visible()
    page.get_by_label("Another false-alarm rate, %").fill("20")
    page.get_by_role("button", name="Set the rate of the new model").click()
    expect(page.get_by_text("at most 18.18% false alarms; scores of 10 good images")).to_be_visible()
    page.get_by_label("Name of the model").fill(name)
    page.get_by_role("button", name="Save and use").click()
    expect(page.get_by_text("each gets a verdict")).to_be_visible()


def upload(page: Page, *files: Path | tuple[str, bytes]) -> None:
    named = [(file.name, file.read_bytes()) if isinstance(file, Path) else file for file in files]
    payloads: list[FilePayload] = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in named]
    page.locator(".q-uploader__input").set_input_files(payloads)


def cards(page: Page) -> Locator:
    return page.locator(".pc-image")


def verdicts(page: Page) -> dict[str, str]:
    captions = page.locator(".pc-caption").all_inner_texts()
    return {lines[1]: lines[0] for lines in (caption.splitlines() for caption in captions)}


def downloaded(page: Page, name: str) -> bytes:
    with page.expect_download(timeout=WAIT) as waiting:
        page.get_by_role("link", name=name).click()
    return Path(waiting.value.path()).read_bytes()
