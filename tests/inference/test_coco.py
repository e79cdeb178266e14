"""COCO JSON of results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcore_plugin.inference import ResultsWriter, coco_annotations, write_coco
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.prediction import Prediction

CALIBRATION = Calibration(
    threshold=1.0, source="made up", map_scale=(0.0, 4.0), map_threshold=0.5, scores=(0.5, 1.0), peaks=(0.25, 0.5)
)


def predictions() -> list[Prediction]:
    """Return two regions in one image, none in another that is not square, and one image without a map."""
    values = np.zeros((20, 30), dtype=np.float32)
    values[2, 3] = 2
    values[5:9, 10:20] = 1
    values[8, 10] = 0
    clean = np.zeros((30, 20), dtype=np.float32)
    return [
        Prediction.compare(CALIBRATION, os.path.join("parts", "a", "1.png"), (20, 30), 2.0, values),  # noqa: PTH118
        Prediction.compare(CALIBRATION, os.path.join("parts", "b", "1.png"), (30, 20), 0.7, clean),  # noqa: PTH118
        Prediction.compare(CALIBRATION, os.path.join("parts", "b", "2.png"), (40, 50), 0.2, None),  # noqa: PTH118
    ]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    with ResultsWriter(tmp_path, (0.0, 4.0)) as writer:
        for prediction in predictions():
            writer.write(prediction)
    return tmp_path / "results.jsonl"


def lines(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def test_content_follows_the_coco_format(results: Path) -> None:
    content = coco_annotations(lines(results), {"description": "two parts"})
    assert content["info"] == {"description": "two parts"}
    assert [category["name"] for category in content["categories"]] == ["defect"]
    shown = [[image[key] for key in ("id", "file_name", "width", "height")] for image in content["images"]]
    assert shown == [[1, "a/1.png", 30, 20], [2, "b/1.png", 20, 30], [3, "b/2.png", 50, 40]]
    assert [image["is_anomalous"] for image in content["images"]] == [True, False, False]
    speck, block = content["annotations"]
    assert speck == {
        "id": 1,
        "image_id": 1,
        "category_id": content["categories"][0]["id"],
        "bbox": [3, 2, 1, 1],
        "area": 1,
        "segmentation": [[3, 2, 3, 3, 4, 3, 4, 2]],
        "iscrowd": 0,
        "score": 2.0,
    }
    assert (block["id"], block["bbox"], block["area"], block["score"]) == (2, [10, 5, 10, 4], 39, 1.0)
    assert {len(polygon) % 2 for polygon in block["segmentation"]} == {0}


def test_file_has_the_same_content(results: Path, tmp_path: Path) -> None:
    info = {"description": "two parts", "version": "1"}
    write_coco(results, tmp_path / "coco.json", info)
    assert json.loads((tmp_path / "coco.json").read_text(encoding="utf-8")) == coco_annotations(lines(results), info)


def test_results_without_predictions_give_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"path": "x.png", "error": "cannot be read"}\n', encoding="utf-8")
    write_coco(tmp_path / "results.jsonl", tmp_path / "coco.json")
    content = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))
    assert (content["images"], content["annotations"]) == ([], [])


def test_failure_leaves_the_previous_file(results: Path, tmp_path: Path) -> None:
    write_coco(results, tmp_path / "coco.json")
    before = (tmp_path / "coco.json").read_bytes()
    with results.open("a", encoding="utf-8") as file:
        file.write('{"regions": [{}]}\n')
    with pytest.raises(KeyError):
        write_coco(results, tmp_path / "coco.json")
    assert (tmp_path / "coco.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"coco.json", "results.jsonl", "heat_maps"}


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/1.png"], ["1.png"]),
        (["1.png", "x/1.png"], ["1.png", "x/1.png"]),
        (["/p/x/1.png", "/p/xy/1.png"], ["x/1.png", "xy/1.png"]),
        (["/p/x/1.png", "x/1.png"], ["/p/x/1.png", "x/1.png"]),
        ([None, "p/1.png"], ["image-1", "1.png"]),
    ],
)
def test_file_names_are_relative_to_the_common_folder(paths: list[str | None], names: list[str]) -> None:
    entries: dict[str, Any] = {"is_anomalous": None, "score": 0.0, "p_value": None, "regions": []}
    content = coco_annotations({"path": path, "width": 2, "height": 1, **entries} for path in paths)
    assert [image["file_name"] for image in content["images"]] == names
