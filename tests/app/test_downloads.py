"""Results as files, and pictures."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from patchcore_plugin.app import downloads, drawing
from patchcore_plugin.app.library import Loaded
from patchcore_plugin.app.limits import Folders
from patchcore_plugin.app.pictures import Pictures
from patchcore_plugin.app.visit import Visits, judge
from patchcore_plugin.data.headers import read_header
from patchcore_plugin.models.prediction import Prediction
from tests.app.fakes import FakeModel, image, prediction


@pytest.fixture
def results(visits: Visits, loaded: Loaded) -> downloads.Results:
    visit = visits.start()
    visit.use(loaded)
    for name, value in (("=cmd.png", 10), ("b.png", 200)):
        source = visit.upload(name, image(value))
        ((_, found),) = judge(loaded, visit.limits, [source])
        assert isinstance(found, Prediction)
        visit.add(source, found)
    return visit.results()


def test_lines_are_those_that_predict_writes(results: downloads.Results) -> None:
    lines = [json.loads(line) for line in downloads.as_lines(results).splitlines()]
    assert [(line["path"], line["score"], line["is_anomalous"], line["p_value"]) for line in lines] == [
        ("=cmd.png", 10.0, False, 0.55),
        ("b.png", 200.0, True, 0.05),
    ]
    assert [each["box"] for each in lines[1]["regions"]] == [[2, 2, 3, 2]]


def test_a_table_holds_no_formula(results: downloads.Results) -> None:
    rows = list(csv.DictReader(io.StringIO(downloads.as_table(results).decode("utf-8-sig"))))
    assert [(row["image"], row["verdict"], row["score"], row["threshold"], row["regions"]) for row in rows] == [
        ("'=cmd.png", "good", "10.0", "19.0", "0"),
        ("b.png", "defect", "200.0", "19.0", "1"),
    ]


def test_the_zip_file_has_all_and_pictures_on_the_pages_scale(results: downloads.Results, tmp_path: Path) -> None:
    def why(found: Prediction) -> Any:
        assert found.pixels is not None and found.pixels.shape[:2] == found.size  # noqa: PT018
        return np.zeros((4, 4, 3), np.uint8) if found.is_anomalous else None

    downloads.write_zip(tmp_path / "r.zip", results, (0.0, 400.0), why)
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        lines = [json.loads(line) for line in archive.read("results.jsonl").splitlines()]
        assert {"results.csv", *(line["overlay"] for line in lines), *(line["map"] for line in lines)} <= names
        assert lines[0]["scale"] == [0.0, 400.0]
        assert [line["why"] in names for line in lines] == [False, True]
        assert [each["bbox"] for each in json.loads(archive.read("coco.json"))["annotations"]] == [[2, 2, 3, 2]]
        assert archive.read(lines[1]["overlay"]).startswith(b"\x89PNG")


def test_a_image_that_is_gone_or_another_by_now_spoils_no_zip_file(results: downloads.Results, tmp_path: Path) -> None:
    (gone, _), (replaced, _) = results
    gone.source.file.unlink()
    replaced.source.file.write_bytes(image(9, size=(20, 20)))
    downloads.write_zip(tmp_path / "r.zip", results, (0.0, 400.0))
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        lines = [json.loads(line) for line in archive.read("results.jsonl").splitlines()]
        assert [(line["path"], line["overlay"]) for line in lines] == [("=cmd.png", None), ("b.png", None)]
        assert {line["map"] for line in lines} <= set(archive.namelist())


def test_heat_is_clear_below_the_scale_and_full_above() -> None:
    values = np.array([[0, 1, 2, 3, np.nan]], dtype=np.float32)
    pixels = cv2.imdecode(np.frombuffer(drawing.heat(values, (1.0, 3.0), 100), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels[0, :, 3].tolist() == [0, 0, 128, 255, 255]
    wide = drawing.heat(np.zeros((30, 300), np.float32), (0.0, 1.0), 100)
    assert read_header(wide).size == (10, 100)
    assert read_header(drawing.jpeg(np.zeros((30, 300, 3), np.uint8), 100)).size == (10, 100)


def test_outlines_lie_where_the_regions_are() -> None:
    values = np.zeros((6, 9), np.float32)
    values[1:3, 4:8] = 1
    svg = drawing.outlines(values, 0.5).decode()
    assert 'viewBox="0 0 9 6"' in svg
    assert {"4 1", "8 1", "8 3", "4 3"} <= set(re.split("[MLZ]", svg.split(' d="')[1]))


def test_the_histogram_shows_scores_threshold_and_images() -> None:
    svg = drawing.histogram([1, 1, 2], [(1.5, False), (9.0, True)], 3.0, (0.0, 10.0))
    assert "Scores of 3 good images, as a histogram; 2 judged images, 1 above the threshold" in svg
    assert 'class="pc-line" d="M96.0' in svg
    assert re.findall(r">([^<>]+)</text>", svg) == ["0", "score", "10"]
    heights = [float(each) for each in re.findall(r'height="([\d.]+)"/>', svg)]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)
    assert 'class="pc-good" d="M48.0' in svg
    assert 'class="pc-defect" d="M288.0' in svg
    low, high = drawing.span([5.0, 5.0])
    assert low < 5 < high


def test_a_training_image_elsewhere_is_not_shown(visits: Visits, folders: Folders, tmp_path: Path) -> None:
    pictures = Pictures(visits, folders)

    def shown(path: Path | None, model: object) -> bool:
        found = prediction(np.zeros((1, 1)), image=None if path is None else str(path))
        return pictures.has_why(model, found.nearest)

    model = FakeModel()
    assert shown(tmp_path / "images" / "good" / "a.png", model)
    for path in (tmp_path / "secret" / "a.png", tmp_path / "images" / "link" / "a.png", None):
        assert not shown(path, model)
    model.thumbnails = {0: b"jpeg"}
    assert shown(tmp_path / "secret" / "a.png", model)
