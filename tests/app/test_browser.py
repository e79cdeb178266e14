"""The page in a headless browser: one whole session, rejected input, and appearance; the app runs by its command."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect

from patchcore_plugin.models.file import read_manifest
from tests.app.browser import (
    BrowserWindow,
    RunningApp,
    cards,
    choose_backbone,
    download,
    fit,
    inspect_folder,
    upload,
    verdicts,
)
from tests.app.fakes import png_file

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.browser]


def huge_png() -> bytes:
    """Return a PNG file of 30,000 x 30,000 black pixels: a few hundred kilobytes that decode to 2.7 GB."""
    side = 30_000
    packer = zlib.compressobj(1)
    row = bytes(1 + side // 8)
    rows = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    return png_file(side, side, rows=rows)


def test_whole_session(window: BrowserWindow, app: RunningApp) -> None:
    page = window.page
    expect(page.get_by_text("There is no model yet")).to_be_visible()
    fit(page, "parts")
    model = app.models / "parts.safetensors"
    stored = read_manifest(model)["calibration"]
    assert (len(stored["scores"]), stored["threshold"]) == (10, stored["scores"][-2])

    test = app.images / "test"
    images = {"good.png": test / "good" / "000.png", "hole.png": test / "missing_hole" / "000.png"}
    upload(page, *((name, path.read_bytes()) for name, path in images.items()))
    expect(cards(page)).to_have_count(2)
    assert verdicts(page)["hole.png"] == "Defect"

    # All images load and have alternative texts.
    page.wait_for_function("[...document.querySelectorAll('.pc-stack img')].every((image) => image.naturalWidth > 0)")
    assert page.locator("img:not([alt])").count() == 0

    # The dialog shows one image with its explanation.
    page.get_by_role("button", name="Image hole.png").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("of good images score this high")).to_be_visible()
    expect(dialog.get_by_alt_text("next to the nearest normal patch")).to_be_visible()
    page.wait_for_function("document.querySelector('.pc-explanation').naturalWidth > 300")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    # The threshold decides all verdicts.
    threshold = page.get_by_role("slider", name="Threshold")
    width = (threshold.bounding_box() or {"width": 0})["width"]
    threshold.click(position={"x": 2, "y": 10})
    expect(page.get_by_text("2 images: 2 defective, 0 good")).to_be_visible()
    threshold.click(position={"x": width - 2, "y": 10})
    expect(page.get_by_text("2 images: 0 defective, 2 good")).to_be_visible()
    expect(page.get_by_text("Estimated false-alarm rate")).to_be_visible()
    number = page.get_by_label("Defect if the score exceeds")
    before = number.input_value()
    threshold.press("ArrowLeft")
    expect(number).not_to_have_value(before)
    page.wait_for_timeout(300)  # the slider reports its last position once more, a moment later
    scores = dict(re.findall(r"(\S+\.png)\nscore ([\d.]+)", "\n".join(page.locator(".pc-caption").all_inner_texts())))
    middle = (float(scores["good.png"]) + float(scores["hole.png"])) / 2
    number.fill(f"{middle:.4f}")
    expect(page.get_by_text("2 images: 1 defective, 1 good")).to_be_visible()
    assert verdicts(page) == {"good.png": "Good", "hole.png": "Defect"}

    # The file changes only when the user saves.
    assert read_manifest(model)["calibration"] == stored
    page.get_by_role("button", name="Reset to saved").click()
    expect(page.get_by_text("Guaranteed false-alarm rate: at most 18.18%")).to_be_visible()
    number.fill(f"{middle:.4f}")
    page.get_by_role("button", name="Save to model").click()
    expect(page.get_by_text("Threshold saved to parts.safetensors.")).to_be_visible()
    saved = read_manifest(model)["calibration"]
    assert saved["threshold"] == pytest.approx(middle, abs=1e-4)
    assert [saved[key] == stored[key] for key in ("scores", "peaks", "map_scale", "source")] == [True] * 4

    # The colour scale and the opacity apply to all images.
    heat = page.locator(".pc-heat").first
    url = heat.get_attribute("src")
    page.get_by_role("slider", name="Maximum").click(position={"x": 60, "y": 10})
    expect(heat).not_to_have_attribute("src", url or "")
    page.get_by_role("slider", name="Opacity").click(position={"x": 8, "y": 10})
    expect(heat).to_have_css("opacity", re.compile(r"^0(\.0\d*)?$"))

    # The downloads hold what the page shows.
    lines = [json.loads(line) for line in download(page, "results.jsonl").splitlines()]
    by_name = {line["path"]: line for line in lines}
    assert {name: line["is_anomalous"] for name, line in by_name.items()} == {"good.png": False, "hole.png": True}
    assert all(line["threshold"] == saved["threshold"] for line in lines)
    assert by_name["hole.png"]["regions"]
    assert by_name["hole.png"]["p_value"] == pytest.approx(1 / 11)
    assert by_name["hole.png"]["score"] == pytest.approx(float(scores["hole.png"]), rel=1e-3)
    rows = csv.DictReader(io.StringIO(download(page, "results.csv").decode("utf-8-sig")))
    assert {row["image"]: row["verdict"] for row in rows} == {"good.png": "good", "hole.png": "defect"}
    with zipfile.ZipFile(io.BytesIO(download(page, "All with images"))) as archive:
        records = {record["path"]: record for record in map(json.loads, archive.read("results.jsonl").splitlines())}
        assert records["hole.png"]["score"] == by_name["hole.png"]["score"]
        overlay = cv2.imdecode(np.frombuffer(archive.read(records["hole.png"]["overlay"]), np.uint8), cv2.IMREAD_COLOR)
        assert records["hole.png"]["why"] in archive.namelist()
        assert len(json.loads(archive.read("coco.json"))["images"]) == 2
    assert overlay is not None
    assert overlay.shape == (96, 96, 3)


def test_rejected_images_and_folders_are_reported(window: BrowserWindow, app: RunningApp, fitted: Path) -> None:
    page = window.page
    image = app.images / "test" / "good" / "000.png"
    huge = huge_png()
    assert len(huge) < 2_000_000
    uploads = {
        "huge.png: 30,000 x 30,000 pixels": ("huge.png", huge),
        "text.png: not an image": ("text.png", b"This is not an image.\n"),
        "empty.png: not an image": ("empty.png", b""),
        "large.png: the file is larger than 2 MB": ("large.png", bytes(2_000_001)),
        "notes.txt: not an image": ("notes.txt", b"words"),
        "cut.png: not an image": ("cut.png", image.read_bytes()[:-20]),
    }
    for count, (message, file) in enumerate(uploads.items(), start=1):
        upload(page, file)
        expect(page.get_by_text(message)).to_be_visible()
        upload(page, ("fine.png", image.read_bytes()))
        expect(cards(page)).to_have_count(count)
    for folder in ("/etc", "../../secret", "link", str(app.images.parent.parent / "secret")):
        inspect_folder(page, folder)
        expect(page.get_by_text(f"{folder}: outside the folders")).to_be_visible()
    inspect_folder(page, "test/scratch")
    expect(cards(page)).to_have_count(len(uploads) + 1)
    expect(page.get_by_text("scratch/000.png")).to_be_visible()

    page.get_by_role("tab", name="Fit").click()
    page.get_by_label("Folder with images of good parts").fill("../../secret")
    page.get_by_role("button", name="Fit", exact=True).click()
    expect(page.get_by_text("../../secret: outside the folders")).to_be_visible()
    page.get_by_label("Folder with images of good parts").fill("train/good")
    page.get_by_label("False-alarm rate (%)", exact=True).locator("visible=true").fill("1")
    choose_backbone(page)
    page.get_by_role("button", name="Fit", exact=True).click()
    expect(page.get_by_text("a false-alarm rate of 0.01 needs at least 99 held-out")).to_be_visible()


def test_page_fits_its_width_and_text_has_contrast(window: BrowserWindow, app: RunningApp, fitted: Path) -> None:
    page = window.page
    upload(page, app.images / "test" / "scratch" / "000.png")
    upload(page, ("text.png", b"words"))
    expect(cards(page)).to_have_count(1)
    expect(page.get_by_text("text.png: not an image")).to_be_visible()
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for width, scheme in itertools.product((1280, 390), schemes):
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        expect(page.locator("body.body--dark")).to_have_count(int(scheme == "dark"))
        for tab in ("Fit", "Inspect"):
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRAST) > 4.5


CONTRAST = """() => {
  const luminance = (text) => {
    const [r, g, b] = text.match(/[0-9.]+/g).map(Number)
      .map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = document.querySelectorAll(".pc-soft, .pc-heading, .pc-verdict, .pc-primary");
  return Math.min(...[...texts].map((text) => {
    let back = text;
    while (getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)") back = back.parentElement;
    const [a, b] = [luminance(getComputedStyle(text).color), luminance(getComputedStyle(back).backgroundColor)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
}"""
"""JavaScript that returns the lowest contrast of text and background, as WCAG defines it."""


def test_foreign_requests_and_large_bodies_are_rejected(app: RunningApp) -> None:
    assert app.request("GET", "/")[0] == 200
    assert app.request("GET", "/", Host="evil.example")[0] == 400
    assert app.request("GET", "/", Host=f"localhost:{app.port}")[0] == 200
    assert app.request("GET", "/", Host="inspection.example", Origin="https://inspection.example")[0] == 200
    assert app.request("GET", "/", Origin="http://evil.example")[0] == 403
    assert app.request("POST", "/", b"x", **{"Content-Length": "3000000"})[0] == 413
    assert app.request("GET", "/sessions/guessed/1/image.jpg")[0] == 404
