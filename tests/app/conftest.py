"""What several files about the page share: visits, a loaded model, folders; the running app and a browser."""

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

from patchcore_plugin.app.library import Loaded, stamp_of
from patchcore_plugin.app.limits import Folders, Limits
from patchcore_plugin.app.visit import Visits
from patchcore_plugin.data.synthetic import draw_dataset
from tests.app.browser import SWITCHES, WAIT, Place, Watched, fit
from tests.app.fakes import FakeModel, image


@pytest.fixture
def visits() -> Iterator[Visits]:
    with Visits(Limits(upload=10**6, pixels=10**6, images=3, memory=2000)) as found:
        yield found


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    path = tmp_path / "model.safetensors"
    model = FakeModel()
    model.save(path)
    return Loaded(path, model, stamp_of(path))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for name in ("images/good", "images2", "secret"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(image(1))
    (tmp_path / "images" / "link").symlink_to(tmp_path / "secret", target_is_directory=True)
    return Folders([tmp_path / "images"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
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
            said = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:[0-9]+", said)
            assert found is not None, said
            yield Place(found[0], images, root / "models")
            assert process.poll() is None, "the app has stopped"
        finally:
            process.terminate()
    assert {path.name for path in root.iterdir()} == {"models", "images", "secret", "temporary"}, "it writes elsewhere"
    assert list((root / "temporary").iterdir()) == [], "uploads are left"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = os.environ.get("PATCHCORE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    expect.set_options(timeout=WAIT)
    with sync_playwright() as started:
        try:
            browser = started.chromium.launch(executable_path=path, args=list(SWITCHES))
        except Error as error:
            if path is not None:
                raise
            pytest.skip(f"no Chromium can be started; install it, or name it in PATCHCORE_CHROMIUM ({str(error)[:80]})")
        yield browser
        browser.close()


@pytest.fixture
def watched(browser: Browser, place: Place) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT)
    watched = Watched.of(context, place.address)
    watched.page.goto(place.address)
    yield watched
    context.close()
    assert watched.elsewhere == [], "requests left the machine"
    assert watched.errors == []


@pytest.fixture
def fitted(watched: Watched, place: Place) -> Path:
    """The model of the module, fitted in the page by whoever comes first."""
    path = place.models / "parts.safetensors"
    if not path.exists():
        fit(watched.page, "parts")
    return path
