"""Use of the page by keyboard, with double clicks, with folders, with several models and by several users."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.app.browser import BrowserWindow, RunningApp, cards, choose_backbone, inspect_folder, upload, verdicts

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.browser]


def messages(page: Page) -> Locator:
    return page.locator(".pc-message")


def drop(page: Page, *paths: Path) -> None:
    """Drop files and folders of this machine, as a file manager does."""
    box = page.locator(".pc-upload").bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        position = {"x": box["x"] + 20, "y": box["y"] + 10}
        session.send("Input.dispatchDragEvent", {"type": kind, **position, "data": data})


def numbers(page: Page) -> list[int]:
    """Return the numbers of the listed images."""
    urls = page.locator(".pc-stack > img:first-child").evaluate_all("(images) => images.map((image) => image.src)")
    return [int(url.split("/")[-2]) for url in urls]


def test_fit_outlasts_its_page_and_other_users_cannot_discard_it(
    browser: Browser, window: BrowserWindow, app: RunningApp
) -> None:
    other = browser.new_page()
    other.goto(app.url)
    other.get_by_role("button", name="Fit a model").click()
    other.get_by_label("Folder with images of good parts").fill("train/good")
    choose_backbone(other)
    other.get_by_role("button", name="Fit", exact=True).dblclick()
    expect(other.get_by_role("button", name="Fit", exact=True)).to_be_disabled()
    expect(messages(other)).to_have_count(0)
    other.close()

    page = window.page
    page.get_by_role("tab", name="Fit").click()
    expect(page.get_by_text("Model fitted")).to_be_visible()
    page.get_by_label("Folder with images of good parts").fill("train/good")
    page.get_by_role("button", name="Fit", exact=True).click()
    expect(page.get_by_text("save or discard it first")).to_be_visible()
    page.get_by_role("button", name="Set the new false-alarm rate").click()
    expect(page.get_by_text("no false-alarm rate given")).to_be_visible()
    page.get_by_label("Model name").fill("parts")
    page.get_by_role("button", name="Save and use").dblclick()
    expect(page.get_by_text("Each image gets a verdict")).to_be_visible()
    expect(messages(page)).to_have_count(0)
    page.get_by_role("tab", name="Fit").click()
    expect(page.get_by_text("Saved as parts.safetensors")).to_be_visible()
    expect(page.get_by_role("button", name="Discard model")).to_be_hidden()


def test_folders_are_chosen_and_dropped(window: BrowserWindow, app: RunningApp, fitted: Path, tmp_path: Path) -> None:
    page = window.page
    folder = tmp_path / "part"
    for name in ("b/1.png", "a/1.PNG", "a/inner/2.png", "0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(app.images / "test" / "good" / "000.png", folder / name)
    for name in ("notes.txt", "a/.hidden.png"):
        (folder / name).write_text("not an image")
    names = ["a_1.PNG", "b_1.png", "inner_2.png", "part_0.png"]

    page.locator(".pc-folder").set_input_files(folder)
    expect(cards(page)).to_have_count(4)
    assert sorted(verdicts(page)) == names
    drop(page, folder)
    expect(cards(page)).to_have_count(8)
    expect(page.locator(".q-uploader__dnd")).to_have_count(0)  # the overlay while something is dragged
    assert sorted(verdicts(page)) == names
    drop(page, folder / "a" / "inner", folder / "0.png")
    expect(cards(page)).to_have_count(10)
    assert sorted(verdicts(page)) == ["0.png", *names]
    drop(page, folder / "0.png")
    expect(cards(page)).to_have_count(11)
    expect(messages(page)).to_have_count(0)

    (tmp_path / "words").mkdir()
    shutil.copy(folder / "notes.txt", tmp_path / "words")
    drop(page, tmp_path / "words")
    expect(page.get_by_text("words: no images in this folder")).to_be_visible()
    page.locator(".pc-upload").evaluate("(box) => { box.dataset.maxImages = 2; }")
    drop(page, folder)
    expect(page.get_by_text("part: only the first 2 images")).to_be_visible()
    expect(cards(page)).to_have_count(13)
    assert sorted(numbers(page)) == list(range(1, 14)), "each image was scored once"


def test_image_can_be_uploaded_twice_and_folder_is_listed_once(
    window: BrowserWindow, app: RunningApp, fitted: Path
) -> None:
    page = window.page
    for count in (1, 2):
        page.locator(".q-uploader__input").set_input_files(app.images / "test" / "good" / "000.png")
        expect(cards(page)).to_have_count(count)
    inspect_folder(page, "test/scratch")
    for _ in range(2):
        page.get_by_role("button", name="Inspect folder").dblclick()
        expect(page.get_by_text("3 images: ")).to_be_visible()
    expect(page.get_by_text("scratch/000.png")).to_have_count(1)
    expect(messages(page)).to_have_count(0)


def test_keyboard_use(window: BrowserWindow, app: RunningApp, fitted: Path) -> None:
    page = window.page
    page.get_by_role("button", name="Choose folder").focus()
    with page.expect_file_chooser():
        page.keyboard.press("Enter")
    page.get_by_role("button", name="Choose images").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    test = app.images / "test"
    chooser.value.set_files(test / "good" / "000.png")
    expect(cards(page)).to_have_count(1)
    upload(page, ("hole.png", (test / "missing_hole" / "000.png").read_bytes()))
    expect(cards(page)).to_have_count(2)

    # The pressed button keeps the focus from image to image; the list wraps around.
    page.get_by_role("button", name="Image 000.png").press("Enter")
    title = page.locator(".pc-view .pc-name")
    expect(title).to_have_text("000.png (1 of 2)")
    page.get_by_role("button", name="Next").press("Enter")
    expect(title).to_have_text("hole.png (2 of 2)")
    page.keyboard.press("Enter")
    expect(title).to_have_text("000.png (1 of 2)")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()

    # The dialog steps through the listed images only.
    number = page.get_by_label("Defect if the score exceeds")
    scores = [float(score) for score in re.findall(r"score ([\d.]+)", page.locator(".pc-grid").inner_text())]
    number.fill(f"{sum(scores) / 2:.4f}")
    expect(page.get_by_text("2 images: 1 defective, 1 good")).to_be_visible()
    page.get_by_role("switch", name="Show defects only").press("Space")
    expect(page.get_by_text("000.png", exact=True)).to_be_hidden()
    page.get_by_role("button", name="Image hole.png").press("Enter")
    expect(title).to_have_text("hole.png (1 of 1)")


def test_another_model_scores_the_images_once_and_a_broken_one_changes_nothing(
    window: BrowserWindow, app: RunningApp, fitted: Path
) -> None:
    page = window.page
    upload(page, app.images / "test" / "good" / "000.png")
    expect(cards(page)).to_have_count(1)
    shutil.copy(fitted, app.models / "twin.safetensors")
    (app.models / "broken.safetensors").write_bytes(b"no model")

    def choose(name: str) -> None:
        page.get_by_label("Model").click()
        page.get_by_role("option", name=name).click()

    choose("twin.safetensors")
    expect(page.locator('.pc-stack > img[src*="/2/image.jpg"]')).to_be_visible()
    choose("broken.safetensors")
    expect(page.get_by_text("broken.safetensors")).to_have_count(1)  # the message; the old model stays selected
    expect(page.get_by_label("Model")).to_have_value("twin.safetensors")
    expect(page.get_by_text("1 image: ")).to_be_visible()
    assert numbers(page) == [2], "the image was scored by the other model, once"
