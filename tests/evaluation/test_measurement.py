"""Evaluation of a detector: metrics, files, skipped images and interruptions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from patchcore_plugin.data.datasets import Category, TestImage
from patchcore_plugin.data.types import OnError, Progress
from patchcore_plugin.errors import ImageError, PatchcoreError
from patchcore_plugin.evaluation.measurement import evaluate, evaluate_category
from patchcore_plugin.evaluation.metrics.pixel import PixelScores, pixel_metrics
from patchcore_plugin.evaluation.results import METRICS
from patchcore_plugin.inference.writer import ResultsWriter
from patchcore_plugin.models.regions import find_regions
from tests.commands import json_lines
from tests.evaluation.darkness_detector import CALIBRATION, FakeDetector, write_category, write_image, write_mask
from tests.inference.predictions import FakePrediction


def test_metrics_and_files_are_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    categories = [write_category(tmp_path, "nut"), write_category(tmp_path, "bolt")]
    evaluation = evaluate(categories, FakeDetector, out, recipe={"name": "fake"})

    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == evaluation.to_json()
    assert list(metrics["categories"]) == ["nut", "bolt"]
    for values in [*metrics["categories"].values(), metrics["mean"]]:
        assert tuple(values) == METRICS
        assert (values["image_auroc"], values["image_ap"], values["image_f1_max"]) == (1.0, 1.0, 1.0)
        assert (values["pixel_auroc"], values["aupro"]) == (1.0, 1.0)
        assert (values["bank_rows"], values["covering_radius"]) == (7, 0.25)
    assert metrics["recipe"] == {"name": "fake"}
    assert metrics["failed"] == []

    lines = json_lines(out / "nut" / "results.jsonl")
    assert [Path(line["path"]) for line in lines] == [image.path for image in categories[0].test]
    spot = lines[4]
    assert spot["score"] == pytest.approx(1 - 60 / 255)
    assert (spot["threshold"], spot["is_anomalous"], spot["kind"], spot["label"]) == (0.5, True, "hole", True)
    assert spot["nearest"] == {
        "image": "train/good/000.png", "x": 3, "y": 4, "peak_x": 5, "peak_y": 6, "distance": 0.5
    }  # fmt: skip
    assert spot["scale"] == [0.5, 1.0]
    heat_map = cv2.imread(str(out / "nut" / spot["map"]))
    overlay = cv2.imread(str(out / "nut" / spot["overlay"]))
    assert heat_map is not None
    assert overlay is not None
    assert heat_map.shape == overlay.shape == (24, 32, 3)
    # The good part is below the scale: black in the heat map, unchanged in the overlay.
    assert (heat_map[20, 30] < 10).all()
    assert (overlay[20, 30] == 200).all()
    assert (overlay[6, 8] != 60).any()
    assert len({line["map"] for line in lines} | {line["overlay"] for line in lines}) == 12


def test_counts_at_the_model_threshold(tmp_path: Path) -> None:
    category = write_category(tmp_path)
    dark = TestImage(write_image(tmp_path / "nut/test/good/dark.png", 90), "good", False, None)
    weak = TestImage(write_image(tmp_path / "nut/test/scratch/0.png", 200, spot=150), "scratch", True, None)
    category = replace(category, test=(*category.test, dark, weak))

    class WithRegions(FakeDetector):
        def predict_each(
            self, images: Iterable[Any], *, on_error: OnError = "stop", keep_pixels: bool = False
        ) -> Iterator[FakePrediction | ImageError]:
            for prediction in super().predict_each(images, on_error=on_error, keep_pixels=keep_pixels):
                assert isinstance(prediction, FakePrediction)
                assert prediction.anomaly_map is not None
                regions = find_regions(prediction.anomaly_map, 0.45)
                yield replace(prediction, regions=regions, p_value=prediction.score / 2)

    evaluation = evaluate([category], WithRegions, tmp_path / "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["at_threshold"] == {
        "nut": {
            "guaranteed_false_alarm_rate": 0.25,
            "calibration_images": 3,
            "threshold": 0.5,
            "good": 4,
            "false_alarms": 1,
            "false_alarm_rate": 0.25,
            "defective": 4,
            "detected": 3,
            "detection_rate": 0.75,
            "kinds": {
                "hole": {"images": 3, "detected": 3, "detection_rate": 1.0},
                "scratch": {"images": 1, "detected": 0, "detection_rate": 0.0},
            },
        }
    }
    assert metrics["categories"]["nut"]["false_alarm_rate"] == metrics["mean"]["false_alarm_rate"] == 0.25
    assert metrics["categories"]["nut"]["detection_rate"] == metrics["mean"]["detection_rate"] == 0.75
    (result,) = evaluation.categories
    assert [image.regions for image in result.images] == [0, 0, 0, 1, 1, 1, 1, 0]
    assert [image.area for image in result.images] == pytest.approx([0, 0, 0, *[48 / 768] * 3, 1, 0])
    assert [image.p_value for image in result.images] == [image.score / 2 for image in result.images]
    assert result.model == {"images": 1, "folders": ["nut/train/good"], "seed": 3}
    assert result.calibration == CALIBRATION


def test_without_a_threshold_nothing_is_counted(tmp_path: Path) -> None:
    evaluate([write_category(tmp_path)], lambda: FakeDetector(threshold=None), tmp_path / "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["at_threshold"] == {"nut": None}
    assert metrics["mean"]["false_alarm_rate"] is None


def test_defective_images_without_a_mask_are_left_out_of_pixel_metrics(tmp_path: Path) -> None:
    category = write_category(tmp_path)
    # If its pixels counted as good, all of them would be false positives.
    unmarked = TestImage(write_image(tmp_path / "x.png", 0), "unmarked", True, None)
    category = Category(category.name, category.train, (*category.test[:4], unmarked))
    evaluation = evaluate([category], FakeDetector, tmp_path / "out")
    metrics = evaluation.categories[0].metrics
    mask = np.zeros((24, 32), dtype=bool)
    mask[4:10, 6:14] = True
    maps = [np.full((24, 32), 1 - g / 255, dtype=np.float32) for g in (200, 190, 180, 200)]
    maps[3][mask] = 1 - 20 / 255
    expected = pixel_metrics([np.zeros_like(mask)] * 3 + [mask], maps)
    assert metrics["pixel_auroc"] == expected.auroc == 1.0
    assert metrics["aupro"] == expected.aupro
    assert len(evaluation.categories[0].images) == 5


def test_methods_without_maps_have_no_pixel_metrics(tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluation = evaluate([write_category(tmp_path)], lambda: FakeDetector(has_maps=False), out)
    metrics = evaluation.categories[0].metrics
    assert (metrics["pixel_auroc"], metrics["aupro"]) == (None, None)
    assert metrics["image_auroc"] == 1.0
    assert {(line["map"], line["overlay"], line["scale"]) for line in json_lines(out / "nut/results.jsonl")} == {
        (None, None, None)
    }
    assert list(out.rglob("*.png")) == []


def test_unreadable_image_is_skipped_or_stops(tmp_path: Path) -> None:
    category = write_category(tmp_path)
    broken = category.test[1].path
    broken.write_bytes(b"no picture")
    evaluation = evaluate([category], FakeDetector, tmp_path / "out")
    (failure,) = evaluation.categories[0].failed
    assert failure.path == str(broken)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["failed"] == [{"category": "nut", "path": str(broken), "reason": f"{broken}: cannot be read"}]
    assert metrics["categories"]["nut"]["image_auroc"] == 1.0
    assert len(json_lines(tmp_path / "out/nut/results.jsonl")) == 5
    with pytest.raises(ImageError, match="cannot be read"):
        evaluate([category], FakeDetector, tmp_path / "out", on_error="stop")


def test_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    category = write_category(tmp_path)
    mask = category.test[3].mask
    assert mask is not None
    write_mask(mask, (24, 30))
    with pytest.raises(ImageError, match="30 x 24 pixels"):
        evaluate([category], FakeDetector, tmp_path / "out", on_error="stop")
    result = evaluate([category], FakeDetector, tmp_path / "out").categories[0]
    assert [str(mask) in failure.reason for failure in result.failed] == [True]
    # The image itself has a score and counts in the image-level metrics.
    assert len(result.images) == 6


def test_skipped_training_images_are_listed(tmp_path: Path) -> None:
    error = ImageError("train/001.png: cannot be read")
    error.path = "train/001.png"
    evaluation = evaluate([write_category(tmp_path)], lambda: FakeDetector(skipped=[error]), tmp_path / "out")
    assert [(failure.path, failure.reason) for failure in evaluation.categories[0].failed] == [
        ("train/001.png", "train/001.png: cannot be read")
    ]


def test_finished_results_survive_a_failure(tmp_path: Path) -> None:
    out = tmp_path / "out"
    detectors = iter([FakeDetector(), FakeDetector(fails_after=2)])
    categories = [write_category(tmp_path, "nut"), write_category(tmp_path, "bolt")]
    with pytest.raises(PatchcoreError, match="power failure"):
        evaluate(categories, lambda: next(detectors), out)
    assert len(json_lines(out / "bolt/results.jsonl")) == 2
    assert list(json.loads((out / "metrics.json").read_text(encoding="utf-8"))["categories"]) == ["nut"]


def test_missing_metrics_are_null_and_left_out_of_the_mean(tmp_path: Path) -> None:
    whole = write_category(tmp_path, "nut")
    only_good = Category("bolt", whole.train, whole.test[:3])
    detectors = iter([FakeDetector(), FakeDetector(covering_radius=float("nan"))])
    evaluate([whole, only_good], lambda: next(detectors), tmp_path / "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["categories"]["bolt"]["image_auroc"] is None
    assert metrics["categories"]["bolt"]["aupro"] is None
    assert metrics["categories"]["bolt"]["covering_radius"] is None
    assert (metrics["mean"]["image_auroc"], metrics["mean"]["covering_radius"]) == (1.0, 0.25)


def test_prediction_time_excludes_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(FakeDetector):
        def predict_each(
            self, images: Iterable[Any], *, on_error: OnError = "stop", keep_pixels: bool = False
        ) -> Iterator[FakePrediction | ImageError]:
            for item in super().predict_each(images, on_error=on_error, keep_pixels=keep_pixels):
                clock[0] += 2.0
                yield item

    original = ResultsWriter.write

    def slow_write(self: ResultsWriter, *args: Any, **extra: Any) -> dict[str, Any]:
        clock[0] += 100.0
        return original(self, *args, **extra)

    monkeypatch.setattr(ResultsWriter, "write", slow_write)
    steps: list[tuple[str, int, int]] = []
    evaluation = evaluate([write_category(tmp_path)], Slow, tmp_path / "out", progress=lambda *step: steps.append(step))
    assert evaluation.categories[0].metrics["predict_seconds_per_image"] == 2.0
    assert steps[0] == ("nut: patches", 1, 1)
    assert steps[1:] == [("nut: predict", done, 6) for done in range(7)]


def test_probe_runs_before_pixels_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    category = write_category(tmp_path)
    category = Category(category.name, category.train * 4, category.test)
    events: list[object] = []
    add = PixelScores.add

    def record_add(self: PixelScores, *arguments: Any) -> None:
        events.append("pixels")
        add(self, *arguments)

    monkeypatch.setattr(PixelScores, "add", record_add)

    class SlowFit(FakeDetector):
        def fit(self, paths: Sequence[Path], *, on_error: OnError, progress: Progress | None) -> None:
            time.sleep(0.05)

    def probe() -> dict[str, float | None]:
        events.append(len(json_lines(tmp_path / "out" / "results.jsonl")))
        return {"peak_memory_bytes": 5.0}

    detector = SlowFit(skipped=[ImageError("x")])
    metrics = evaluate_category(category, detector, tmp_path / "out", probe=probe).metrics
    assert events == [6, *["pixels"] * 6]
    assert metrics["peak_memory_bytes"] == 5.0
    assert metrics["fit_seconds"] is not None
    assert metrics["fit_seconds"] >= 0.05
    assert metrics["fit_seconds_per_image"] == metrics["fit_seconds"] / 3
    # No temporary file is left.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["heat_maps", "overlays", "results.jsonl"]
