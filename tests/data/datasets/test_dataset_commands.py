"""The commands evaluate and fit on data sets of different layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchcore_plugin import Detector
from tests.commands import run_command
from tests.data.datasets.dataset_files import draw, write
from tests.data.datasets.test_visa import SPLIT

pytestmark = pytest.mark.slow

SMALL = (
    *("--backbone", "efficientnet-lite0", "--device", "cpu", "--set", "preprocessing.size=64,64"),
    *("--set", "backbone.layers=stage3,", "--sampler", "random", "--set", "sampler.ratio=0.1"),
)


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    root = tmp_path / "VisA"
    write(root / "split_csv/1cls.csv", SPLIT)
    for line in SPLIT.splitlines()[1:]:
        _, _, label, image, mask = line.split(",")
        draw(root / image, ground=120, blot=240 if label == "anomaly" else 0)
        if mask:
            draw(root / mask, blot=2)
    return root


def read_training_images(model: Path) -> set[Path]:
    return {Path(image) for image in Detector.load(model, device="cpu").training_images}


def test_evaluate_and_fit_visa(visa: Path, tmp_path: Path) -> None:
    run_command("evaluate", visa, "--out", tmp_path / "out", *SMALL)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["categories"]) == ["candle", "pcb1"]
    assert metrics["failed"] == []
    for category in metrics["categories"].values():
        assert category["image_auroc"] == 1.0
        assert category["pixel_auroc"] > 0.8
    run_command("fit", visa / "candle", "--out", tmp_path / "m.safetensors", *SMALL)
    normal = visa / "candle/Data/Images/Normal"
    assert read_training_images(tmp_path / "m.safetensors") == {normal / "0091.JPG", normal / "0836.JPG"}


def test_evaluate_and_fit_a_table(visa: Path, tmp_path: Path) -> None:
    text = SPLIT.replace("object,split,label,image,mask", "category;split;label;path;mask").replace(",", ";")
    file = write(visa / "parts.csv", "\ufeff" + text)
    run_command("evaluate", file, "--category", "pcb1", "--out", tmp_path / "out", *SMALL)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["categories"]) == ["pcb1"]
    assert metrics["categories"]["pcb1"]["image_auroc"] == 1.0
    assert metrics["categories"]["pcb1"]["pixel_auroc"] > 0.8
    run_command("fit", file / "pcb1", "--out", tmp_path / "m.safetensors", *SMALL)
    assert read_training_images(tmp_path / "m.safetensors") == {visa / "pcb1/Data/Images/Normal/0001.JPG"}
