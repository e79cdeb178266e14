"""How the page is used: by keyboard, by double clicks, with folders, with several models, and by several visitors."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect

from tests.app.browser import BACKBONE, Place, Watched, cards, upload, verdicts


def messages(page: Page) -> Locator:
    return page.locator(".pc-message")


def drop(page: Page, *paths: Path) -> None:
    """Drop files and folders of this machine, as a file manager does."""
    box = page.locator(".pc-upload").bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        where = {"x": box["x"] + 20, "y": box["y"] + 10}
        session.send("Input.dispatchDragEvent", {"type": kind, **where, "data": data})


def numbers(page: Page) -> list[int]:
    """Return the numbers of the images that are listed."""
    addresses = page.locator(".pc-stack > img:first-child").evaluate_all("(all) => all.map((each) => each.src)")
    return [int(address.split("/")[-2]) for address in addresses]


def test_a_fit_outlasts_its_page_and_is_not_lost_to_another_visitor(
    browser: Browser, watched: Watched, place: Place
) -> None:
    other = browser.new_page()
    other.goto(place.address)
    other.get_by_role("button", name="Fit a model").click()
    other.get_by_label("Folder of images of good parts").fill("train/good")
    other.get_by_label("Backbone").fill(BACKBONE)
    other.get_by_role("option", name=BACKBONE, exact=True).click()
    other.get_by_role("button", name="Fit", exact=True).dblclick()
    expect(other.get_by_role("button", name="Fit", exact=True)).to_be_disabled()
    expect(messages(other)).to_have_count(0)
    other.close()

    page = watched.page
    page.get_by_role("tab", name="Fit").click()
    expect(page.get_by_text("The model is fitted")).to_be_visible()
    page.get_by_label("Folder of images of good parts").fill("train/good")
    page.get_by_role("button", name="Fit", exact=True).click()
    expect(page.get_by_text("the model that was fitted is not saved; save it, or discard it")).to_be_visible()
    page.get_by_role("button", name="Set the rate of the new model").click()
    expect(page.get_by_text("no false-alarm rate given; type one, such as 1 for 1 %")).to_be_visible()
    page.get_by_label("Name of the model").fill("parts")
    page.get_by_role("button", name="Save and use").dblclick()
    expect(page.get_by_text("each gets a verdict")).to_be_visible()
    expect(messages(page)).to_have_count(0)
    page.get_by_role("tab", name="Fit").click()
    expect(page.get_by_text("Saved as parts.safetensors")).to_be_visible()
    expect(page.get_by_role("button", name="Discard the model")).to_be_hidden()


def test_folders_are_chosen_and_dropped(watched: Watched, place: Place, fitted: Path, tmp_path: Path) -> None:
    page = watched.page
    expect(page.get_by_text("each gets a verdict")).to_be_visible()
    folder = tmp_path / "part"
    for name in ("b/1.png", "a/1.PNG", "a/inner/2.png", "0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place.images / "test" / "good" / "000.png", folder / name)
    for name in ("notes.txt", "a/.hidden.png"):
        (folder / name).write_text("no image")
    found = ["a_1.PNG", "b_1.png", "inner_2.png", "part_0.png"]

    page.locator(".pc-folder").set_input_files(folder)
    expect(cards(page)).to_have_count(4)
    assert sorted(verdicts(page)) == found
    drop(page, folder)
    expect(cards(page)).to_have_count(8)
    expect(page.locator(".q-uploader__dnd")).to_have_count(0)  # what is shown while something is dragged over it
    assert sorted(verdicts(page)) == found
    drop(page, folder / "a" / "inner", folder / "0.png")
    expect(cards(page)).to_have_count(10)
    assert sorted(verdicts(page)) == ["0.png", *found]
    drop(page, folder / "0.png")
    expect(cards(page)).to_have_count(11)
    expect(messages(page)).to_have_count(0)

    (tmp_path / "words").mkdir()
    shutil.copy(folder / "notes.txt", tmp_path / "words")
    drop(page, tmp_path / "words")
    expect(page.get_by_text("words: no images in this folder; PNG, JPEG")).to_be_visible()
    page.locator(".pc-upload").evaluate("(box) => { box.dataset.most = 2; }")
    drop(page, folder)
    expect(page.get_by_text("part: the first 2 images are judged here; for more there is 'patchcore")).to_be_visible()
    expect(cards(page)).to_have_count(13)
    assert sorted(numbers(page)) == list(range(1, 14)), "each was judged once"


def test_a_image_can_be_given_again_and_a_folder_is_judged_once(watched: Watched, place: Place, fitted: Path) -> None:
    page = watched.page
    expect(page.get_by_text("each gets a verdict")).to_be_visible()
    for count in (1, 2):
        page.locator(".q-uploader__input").set_input_files(place.images / "test" / "good" / "000.png")
        expect(cards(page)).to_have_count(count)
    page.get_by_label("Folder", exact=True).fill("test/scratch")
    for _ in range(2):
        page.get_by_role("button", name="Judge the folder").dblclick()
        expect(page.get_by_text("3 images: ")).to_be_visible()
    expect(page.get_by_text("scratch/000.png")).to_have_count(1)
    expect(messages(page)).to_have_count(0)


def test_without_a_mouse(watched: Watched, place: Place, fitted: Path) -> None:
    page = watched.page
    expect(page.get_by_text("each gets a verdict")).to_be_visible()
    page.get_by_role("button", name="Choose a folder").focus()
    with page.expect_file_chooser():
        page.keyboard.press("Enter")
    page.get_by_role("button", name="Choose images").focus()
    with page.expect_file_chooser() as asked:
        page.keyboard.press("Enter")
    test = place.images / "test"
    asked.value.set_files(test / "good" / "000.png")
    expect(cards(page)).to_have_count(1)
    upload(page, ("hole.png", (test / "missing_hole" / "000.png").read_bytes()))
    expect(cards(page)).to_have_count(2)

    # The pressed button keeps the focus from image to image; after the last one comes the first.
    page.get_by_role("button", name="Image 000.png").press("Enter")
    title = page.locator(".pc-view .pc-name")
    expect(title).to_have_text("000.png, 1 of 2")
    page.get_by_role("button", name="Next").press("Enter")
    expect(title).to_have_text("hole.png, 2 of 2")
    page.keyboard.press("Enter")
    expect(title).to_have_text("000.png, 1 of 2")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()

    # Only what is listed is gone through.
    number = page.get_by_label("Score above which an image is a defect")
    scores = [float(each) for each in re.findall(r"score ([\d.]+)", page.locator(".pc-grid").inner_text())]
    number.fill(f"{sum(scores) / 2:.4f}")
    expect(page.get_by_text("2 images: 1 defect, 1 good")).to_be_visible()
    page.get_by_role("switch", name="Defects only").press("Space")
    expect(page.get_by_text("000.png", exact=True)).to_be_hidden()
    page.get_by_role("button", name="Image hole.png").press("Enter")
    expect(title).to_have_text("hole.png, 1 of 1")


def test_another_model_judges_the_images_once_and_a_broken_one_changes_nothing(
    watched: Watched, place: Place, fitted: Path
) -> None:
    page = watched.page
    expect(page.get_by_text("each gets a verdict")).to_be_visible()
    upload(page, place.images / "test" / "good" / "000.png")
    expect(cards(page)).to_have_count(1)
    shutil.copy(fitted, place.models / "twin.safetensors")
    (place.models / "broken.safetensors").write_bytes(b"no model")

    def choose(name: str) -> None:
        page.get_by_label("Model").click()
        page.get_by_role("option", name=name).click()

    choose("twin.safetensors")
    expect(page.locator('.pc-stack > img[src*="/2/image.jpg"]')).to_be_visible()
    choose("broken.safetensors")
    expect(page.get_by_text("broken.safetensors")).to_have_count(1)  # the message; the choice is the one before
    expect(page.get_by_label("Model")).to_have_value("twin.safetensors")
    expect(page.get_by_text("1 image: ")).to_be_visible()
    assert numbers(page) == [2], "it was judged by the other model, and once"
