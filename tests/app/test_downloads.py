"""Results as JSON lines, CSV and ZIP."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcore_plugin.app import downloads
from patchcore_plugin.app.model_store import LoadedModel
from patchcore_plugin.app.session import SessionStore, score_images
from patchcore_plugin.models.prediction import Prediction
from tests.app.fakes import image


@pytest.fixture
def results(sessions: SessionStore, loaded: LoadedModel) -> downloads.Results:
    session = sessions.start()
    session.use(loaded)
    for name, value in (("=cmd.png", 10), ("b.png", 200)):
        source = session.upload(name, image(value))
        ((_, prediction),) = score_images(loaded, session.limits, [source])
        assert isinstance(prediction, Prediction)
        session.add(source, prediction)
    return session.results()


def test_jsonl_has_the_records_of_predict(results: downloads.Results) -> None:
    lines = [json.loads(line) for line in downloads.to_jsonl(results).splitlines()]
    assert [(line["path"], line["score"], line["is_anomalous"], line["p_value"]) for line in lines] == [
        ("=cmd.png", 10.0, False, 0.55),
        ("b.png", 200.0, True, 0.05),
    ]
    assert [region["box"] for region in lines[1]["regions"]] == [[2, 2, 3, 2]]


def test_csv_contains_no_formulas(results: downloads.Results) -> None:
    rows = list(csv.DictReader(io.StringIO(downloads.to_csv(results).decode("utf-8-sig"))))
    assert [(row["image"], row["verdict"], row["score"], row["threshold"], row["regions"]) for row in rows] == [
        ("'=cmd.png", "good", "10.0", "19.0", "0"),
        ("b.png", "defect", "200.0", "19.0", "1"),
    ]


def test_zip_holds_all_results_with_images_on_the_given_scale(results: downloads.Results, tmp_path: Path) -> None:
    def explain(prediction: Prediction) -> Any:
        assert prediction.pixels is not None
        assert prediction.pixels.shape[:2] == prediction.size
        return np.zeros((4, 4, 3), np.uint8) if prediction.is_anomalous else None

    downloads.write_zip(tmp_path / "r.zip", results, (0.0, 400.0), explain)
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        lines = [json.loads(line) for line in archive.read("results.jsonl").splitlines()]
        assert {"results.csv", *(line["overlay"] for line in lines), *(line["map"] for line in lines)} <= names
        assert lines[0]["scale"] == [0.0, 400.0]
        assert [line["why"] in names for line in lines] == [False, True]
        boxes = [annotation["bbox"] for annotation in json.loads(archive.read("coco.json"))["annotations"]]
        assert boxes == [[2, 2, 3, 2]]
        assert archive.read(lines[1]["overlay"]).startswith(b"\x89PNG")


def test_zip_omits_overlays_of_deleted_and_replaced_images(results: downloads.Results, tmp_path: Path) -> None:
    (deleted, _), (replaced, _) = results
    deleted.source.file.unlink()
    replaced.source.file.write_bytes(image(9, size=(20, 20)))
    downloads.write_zip(tmp_path / "r.zip", results, (0.0, 400.0))
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        lines = [json.loads(line) for line in archive.read("results.jsonl").splitlines()]
        assert [(line["path"], line["overlay"]) for line in lines] == [("=cmd.png", None), ("b.png", None)]
        assert {line["map"] for line in lines} <= set(archive.namelist())
