"""One whole visit to the page in a real headless browser, and what is refused; the app runs by its command."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect

from patchcore_plugin.models.file import read_manifest
from tests.app.browser import BACKBONE, Place, Watched, cards, downloaded, fit, upload, verdicts


def huge_png() -> bytes:
    """Return a PNG file of 30,000 x 30,000 black pixels: a few hundred kilobytes here, 2.7 GB once it is decoded."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))

    side = 30_000
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    row = bytes(1 + side // 8)
    rows = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_whole_visit(watched: Watched, place: Place) -> None:
    page = watched.page
    expect(page.get_by_text("There is no model yet")).to_be_visible()
    fit(page, "parts")
    model = place.models / "parts.safetensors"
    stored = read_manifest(model)["calibration"]
    assert (len(stored["scores"]), stored["threshold"]) == (10, stored["scores"][-2])

    test = place.images / "test"
    images = {"good.png": test / "good" / "000.png", "hole.png": test / "missing_hole" / "000.png"}
    upload(page, *((name, path.read_bytes()) for name, path in images.items()))
    expect(cards(page)).to_have_count(2)
    found = verdicts(page)
    assert found["hole.png"] == "Defect"

    # All pictures of the images are there, and say what they are.
    page.wait_for_function("[...document.querySelectorAll('.pc-stack img')].every((each) => each.naturalWidth > 0)")
    assert page.locator("img:not([alt])").count() == 0
    expect(page.get_by_role("button", name="Image hole.png")).to_be_visible()

    # One image alone, with the patch that it was held against.
    page.get_by_role("button", name="Image hole.png").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("of good images score as high")).to_be_visible()
    why = dialog.get_by_alt_text("The most suspicious patch beside the nearest normal patch")
    expect(why).to_be_visible()
    page.wait_for_function("document.querySelector('.pc-why').naturalWidth > 300")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    # The threshold judges both anew: at the left end both are defects, at the right one none is.
    threshold = page.get_by_role("slider", name="Threshold")
    width = (threshold.bounding_box() or {"width": 0})["width"]
    threshold.click(position={"x": 2, "y": 10})
    expect(page.get_by_text("2 images: 2 defects, 0 good")).to_be_visible()
    threshold.click(position={"x": width - 2, "y": 10})
    expect(page.get_by_text("2 images: 0 defects, 2 good")).to_be_visible()
    expect(page.get_by_text("Estimated: 0 of 10 good images lie above, at most 9.09% false alarms.")).to_be_visible()
    number = page.get_by_label("Score above which an image is a defect")
    before = number.input_value()
    threshold.press("ArrowLeft")
    expect(number).not_to_have_value(before)
    page.wait_for_timeout(300)  # the slider tells its last position once more, a moment later
    scores = dict(re.findall(r"(\S+\.png)\nscore ([\d.]+)", "\n".join(page.locator(".pc-caption").all_inner_texts())))
    middle = (float(scores["good.png"]) + float(scores["hole.png"])) / 2
    number.fill(f"{middle:.4f}")
    expect(page.get_by_text("2 images: 1 defect, 1 good")).to_be_visible()
    assert verdicts(page) == {"good.png": "Good", "hole.png": "Defect"}

    # It is not stored before it is saved.
    assert read_manifest(model)["calibration"] == stored
    page.get_by_role("button", name="Back to the stored one").click()
    expect(page.get_by_text("Promised: at most 18.18% false alarms on good images.")).to_be_visible()
    number.fill(f"{middle:.4f}")
    page.get_by_role("button", name="Save into the model").click()
    expect(page.get_by_text("The threshold is stored in parts.safetensors.")).to_be_visible()
    saved = read_manifest(model)["calibration"]
    assert saved["threshold"] == pytest.approx(middle, abs=1e-4)
    assert [saved[key] == stored[key] for key in ("scores", "peaks", "map_scale", "source")] == [True] * 4

    # Colours and opacity.
    heat = page.locator(".pc-heat").first
    shown = heat.get_attribute("src")
    page.get_by_role("slider", name="Upper end").click(position={"x": 60, "y": 10})
    expect(heat).not_to_have_attribute("src", shown or "")
    page.get_by_role("slider", name="Opacity").click(position={"x": 8, "y": 10})
    expect(heat).to_have_css("opacity", re.compile(r"^0(\.0\d*)?$"))

    # What is downloaded is what is shown.
    lines = [json.loads(line) for line in downloaded(page, "results.jsonl").splitlines()]
    by_name = {line["path"]: line for line in lines}
    assert {name: line["is_anomalous"] for name, line in by_name.items()} == {"good.png": False, "hole.png": True}
    assert all(line["threshold"] == saved["threshold"] for line in lines)
    assert by_name["hole.png"]["regions"]
    assert by_name["hole.png"]["p_value"] == pytest.approx(1 / 11)
    assert by_name["hole.png"]["score"] == pytest.approx(float(scores["hole.png"]), rel=1e-3)
    rows = csv.DictReader(io.StringIO(downloaded(page, "results.csv").decode("utf-8-sig")))
    assert {row["image"]: row["verdict"] for row in rows} == {"good.png": "good", "hole.png": "defect"}
    with zipfile.ZipFile(io.BytesIO(downloaded(page, "All with pictures"))) as archive:
        zipped = {record["path"]: record for record in map(json.loads, archive.read("results.jsonl").splitlines())}
        assert zipped["hole.png"]["score"] == by_name["hole.png"]["score"]
        drawn = cv2.imdecode(np.frombuffer(archive.read(zipped["hole.png"]["overlay"]), np.uint8), cv2.IMREAD_COLOR)
        assert zipped["hole.png"]["why"] in archive.namelist()
        assert len(json.loads(archive.read("coco.json"))["images"]) == 2
    assert drawn is not None
    assert drawn.shape == (96, 96, 3)


def test_what_cannot_be_judged_is_told_and_the_app_goes_on(watched: Watched, place: Place, fitted: Path) -> None:
    page = watched.page
    expect(page.get_by_text("each gets a verdict")).to_be_visible()
    image = place.images / "test" / "good" / "000.png"
    huge = huge_png()
    assert len(huge) < 2_000_000
    uploads = {
        "huge.png: 30,000 x 30,000 pixels are more than the 100 million that are taken here": ("huge.png", huge),
        "text.png: not an image: it holds text": ("text.png", b"This is no image.\n"),
        "empty.png: not an image: the file is empty": ("empty.png", b""),
        "large.png: the file is larger than 2 MB": ("large.png", bytes(2_000_001)),
        "notes.txt: not an image by its name": ("notes.txt", b"words"),
        "cut.png: not an image: the file is cut short": ("cut.png", image.read_bytes()[:-20]),
    }
    for count, (words, file) in enumerate(uploads.items(), start=1):
        upload(page, file)
        expect(page.get_by_text(words)).to_be_visible()
        upload(page, ("fine.png", image.read_bytes()))
        expect(cards(page)).to_have_count(count)
    for text in ("/etc", "../../secret", "link", str(place.images.parent.parent / "secret")):
        page.get_by_label("Folder", exact=True).fill(text)
        page.get_by_role("button", name="Judge the folder").click()
        expect(page.get_by_text(f"{text}: outside of the folders that the app may read")).to_be_visible()
    page.get_by_label("Folder", exact=True).fill("test/scratch")
    page.get_by_role("button", name="Judge the folder").click()
    expect(cards(page)).to_have_count(len(uploads) + 1)
    expect(page.get_by_text("scratch/000.png")).to_be_visible()

    page.get_by_role("tab", name="Fit").click()
    page.get_by_label("Folder of images of good parts").fill("../../secret")
    page.get_by_role("button", name="Fit", exact=True).click()
    expect(page.get_by_text("../../secret: outside of the folders")).to_be_visible()
    page.get_by_label("Folder of images of good parts").fill("train/good")
    page.get_by_label("False-alarm rate, %", exact=True).locator("visible=true").fill("1")
    page.get_by_label("Backbone").fill(BACKBONE)
    page.get_by_role("option", name=BACKBONE, exact=True).click()
    page.get_by_role("button", name="Fit", exact=True).click()
    expect(page.get_by_text("a false-alarm rate of 0.01 needs at least 99 good images")).to_be_visible()


def test_nothing_sticks_out_and_text_can_be_read(watched: Watched, place: Place, fitted: Path) -> None:
    page = watched.page
    expect(page.get_by_text("each gets a verdict")).to_be_visible()
    upload(page, place.images / "test" / "scratch" / "000.png")
    upload(page, ("text.png", b"words"))
    expect(cards(page)).to_have_count(1)
    expect(page.get_by_text("text.png: not an image")).to_be_visible()
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for width, scheme in itertools.product((1280, 390), schemes):
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        expect(page.locator("body.body--dark")).to_have_count(int(scheme == "dark"))
        for tab in ("Fit", "Judge"):
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRAST) > 4.5


CONTRAST = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[0-9.]+/g).map(Number)
      .map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const pairs = [...document.querySelectorAll(".pc-soft, .pc-heading, .pc-verdict, .pc-primary")].map((each) => {
    let back = each;
    while (getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)") back = back.parentElement;
    const [a, b] = [light(getComputedStyle(each).color), light(getComputedStyle(back).backgroundColor)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
  return Math.min(...pairs);
}"""
"""The lowest contrast of text and background, by WCAG's definition."""


def test_other_sites_and_large_bodies_are_kept_out(place: Place) -> None:
    assert place.ask("GET", "/")[0] == 200
    assert place.ask("GET", "/", Host="evil.example") == (400, b"Invalid host header")
    assert place.ask("GET", "/", Host=f"localhost:{place.port}")[0] == 200
    assert place.ask("GET", "/", Host="inspection.example", Origin="https://inspection.example")[0] == 200
    assert place.ask("GET", "/", Origin="http://evil.example") == (403, b"another site may not use this app")
    assert place.ask("POST", "/", b"x", **{"Content-Length": "3000000"}) == (413, b"the file is too large")
    assert place.ask("GET", "/visits/guessed/1/image.jpg")[0] == 404
