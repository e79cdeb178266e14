"""Fixtures for the tests of the app: sessions, a loaded model, folders, the running app and a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, expect, sync_playwright

from patchcore_plugin.app.limits import Folders, Limits
from patchcore_plugin.app.model_store import LoadedModel, file_stamp
from patchcore_plugin.app.session import SessionStore
from patchcore_plugin.data.synthetic import draw_dataset
from tests.app.browser import SWITCHES, WAIT, BrowserWindow, RunningApp, fit
from tests.app.fakes import FakeModel, image


@pytest.fixture
def sessions() -> Iterator[SessionStore]:
    with SessionStore(Limits(upload=10**6, pixels=10**6, images=3, memory=2000)) as store:
        yield store


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    path = tmp_path / "model.safetensors"
    model = FakeModel()
    model.save(path)
    return LoadedModel(path, model, file_stamp(path))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for name in ("images/good", "images2", "secret"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(image(1))
    (tmp_path / "images" / "link").symlink_to(tmp_path / "secret", target_is_directory=True)
    return Folders([tmp_path / "images"])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """The app, started by its command."""
    root = tmp_path_factory.mktemp("app")
    images = draw_dataset(root / "images", train=10, size=96, good=1, defective=1)
    (root / "secret").mkdir()
    shutil.copy(images / "train" / "good" / "000.png", root / "secret")
    (images / "link").symlink_to(root / "secret", target_is_directory=True)
    (root / "temporary").mkdir()
    command = [sys.executable, "-c", "from patchcore_plugin.cli import main; main()", "app", "--no-open", "--port", "0"]
    command += ["--images", str(images), "--models", str(root / "models"), "--max-upload", "2MB", "--device", "cpu"]
    command += ["--allow-host", "inspection.example"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "NICEGUI_"))}
    environment["TMPDIR"] = str(root / "temporary")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = re.search(r"http://127\.0\.0\.1:[0-9]+", line)
            assert url is not None, line
            yield RunningApp(url[0], images, root / "models")
            assert process.poll() is None, "the app has stopped"
        finally:
            process.terminate()
    assert {path.name for path in root.iterdir()} == {"models", "images", "secret", "temporary"}, "unexpected files"
    assert list((root / "temporary").iterdir()) == [], "uploads were not deleted"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = os.environ.get("PATCHCORE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=list(SWITCHES))
        except Error as error:
            if path is not None:
                raise
            pytest.skip(f"no Chromium found; install it or set PATCHCORE_CHROMIUM ({str(error)[:80]})")
        yield browser
        browser.close()


@pytest.fixture
def window(browser: Browser, app: RunningApp) -> Iterator[BrowserWindow]:
    """A browser window with the page; fails after the test if the page had errors or contacted another host."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT)
    window = BrowserWindow.open(context, app.url)
    window.page.goto(app.url)
    yield window
    context.close()
    assert window.foreign_urls == [], "the page contacted another host"
    assert window.errors == []


@pytest.fixture
def fitted(window: BrowserWindow, app: RunningApp) -> Path:
    """The model file of the module, fitted in the page by the first test that needs it, and loaded."""
    path = app.models / "parts.safetensors"
    if not path.exists():
        fit(window.page, "parts")
    expect(window.page.get_by_text("Each image gets a verdict")).to_be_visible()
    return path
