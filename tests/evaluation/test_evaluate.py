"""Evaluation: what is measured of each category, written, and left out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from patchcore_plugin.data.datasets import Category, TestImage
from patchcore_plugin.data.types import OnError, Progress
from patchcore_plugin.errors import ImageError, PatchcoreError
from patchcore_plugin.evaluation.evaluate import evaluate, evaluate_category
from patchcore_plugin.evaluation.metrics import PixelScores, pixel_metrics
from patchcore_plugin.evaluation.results import METRICS, write_json
from patchcore_plugin.inference.writer import ResultsWriter
from patchcore_plugin.models.regions import find_regions
from tests.commands import json_lines
from tests.evaluation.darkness import CALIBRATION, FakeDetector, draw, draw_category, draw_mask
from tests.inference.predictions import FakePrediction


def test_figures_files_and_keys(tmp_path: Path) -> None:
    out = tmp_path / "out"
    categories = [draw_category(tmp_path, "nut"), draw_category(tmp_path, "bolt")]
    evaluation = evaluate(categories, FakeDetector, out, recipe={"name": "fake"})

    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == evaluation.to_json()
    assert list(metrics["categories"]) == ["nut", "bolt"]
    for figures in [*metrics["categories"].values(), metrics["mean"]]:
        assert tuple(figures) == METRICS
        assert (figures["image_auroc"], figures["image_ap"], figures["image_f1_max"]) == (1.0, 1.0, 1.0)
        assert (figures["pixel_auroc"], figures["aupro"]) == (1.0, 1.0)
        assert (figures["bank_rows"], figures["covering_radius"]) == (7, 0.25)
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
    heat = cv2.imread(str(out / "nut" / spot["map"]))
    over = cv2.imread(str(out / "nut" / spot["overlay"]))
    assert heat is not None
    assert over is not None
    assert heat.shape == over.shape == (24, 32, 3)
    # The good part is below the scale: black heat, and the image as it was.
    assert (heat[20, 30] < 10).all()
    assert (over[20, 30] == 200).all()
    assert (over[6, 8] != 60).any()
    assert len({line["map"] for line in lines} | {line["overlay"] for line in lines}) == 12


def test_what_the_models_own_threshold_makes_of_the_images(tmp_path: Path) -> None:
    category = draw_category(tmp_path)
    dark = TestImage(draw(tmp_path / "nut/test/good/dark.png", 90), "good", False, None)
    weak = TestImage(draw(tmp_path / "nut/test/scratch/0.png", 200, spot=150), "scratch", True, None)
    category = replace(category, test=(*category.test, dark, weak))

    class WithRegions(FakeDetector):
        def predict_each(
            self, paths: Sequence[Path], *, on_error: OnError, keep_pixels: bool
        ) -> Iterator[FakePrediction | ImageError]:
            for found in super().predict_each(paths, on_error=on_error, keep_pixels=keep_pixels):
                assert isinstance(found, FakePrediction)
                assert found.anomaly_map is not None
                yield replace(found, regions=find_regions(found.anomaly_map, 0.45), p_value=found.score / 2)

    evaluation = evaluate([category], WithRegions, tmp_path / "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["at_threshold"] == {
        "nut": {
            "promised_false_alarm_rate": 0.25,
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
    (found,) = evaluation.categories
    assert [image.regions for image in found.images] == [0, 0, 0, 1, 1, 1, 1, 0]
    assert [image.area for image in found.images] == pytest.approx([0, 0, 0, *[48 / 768] * 3, 1, 0])
    assert [image.p_value for image in found.images] == [image.score / 2 for image in found.images]
    assert found.model == {"images": 1, "folders": ["nut/train/good"], "seed": 3}
    assert found.calibration == CALIBRATION


def test_without_a_threshold_there_are_no_verdicts(tmp_path: Path) -> None:
    evaluate([draw_category(tmp_path)], lambda: FakeDetector(threshold=None), tmp_path / "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["at_threshold"] == {"nut": None}
    assert metrics["mean"]["false_alarm_rate"] is None


def test_pixels_count_where_the_truth_is_known(tmp_path: Path) -> None:
    category = draw_category(tmp_path)
    # A defective image without a mask, whose every pixel would be a false positive if taken for good.
    unmarked = TestImage(draw(tmp_path / "x.png", 0), "unmarked", True, None)
    category = Category(category.name, category.train, (*category.test[:4], unmarked))
    evaluation = evaluate([category], FakeDetector, tmp_path / "out")
    figures = evaluation.categories[0].metrics
    mask = np.zeros((24, 32), dtype=bool)
    mask[4:10, 6:14] = True
    maps = [np.full((24, 32), 1 - g / 255, dtype=np.float32) for g in (200, 190, 180, 200)]
    maps[3][mask] = 1 - 20 / 255
    expected = pixel_metrics([np.zeros_like(mask)] * 3 + [mask], maps)
    assert figures["pixel_auroc"] == expected.auroc == 1.0
    assert figures["aupro"] == expected.aupro
    assert len(evaluation.categories[0].images) == 5


def test_methods_without_maps(tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluation = evaluate([draw_category(tmp_path)], lambda: FakeDetector(has_maps=False), out)
    figures = evaluation.categories[0].metrics
    assert (figures["pixel_auroc"], figures["aupro"]) == (None, None)
    assert figures["image_auroc"] == 1.0
    assert {(line["map"], line["overlay"], line["scale"]) for line in json_lines(out / "nut/results.jsonl")} == {
        (None, None, None)
    }
    assert list(out.rglob("*.png")) == []


def test_an_unreadable_image_is_listed_and_the_rest_counts(tmp_path: Path) -> None:
    category = draw_category(tmp_path)
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


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    category = draw_category(tmp_path)
    mask = category.test[3].mask
    assert mask is not None
    draw_mask(mask, (24, 30))
    with pytest.raises(ImageError, match=r"30 x 24 pixels, but its image .* has 32 x 24"):
        evaluate([category], FakeDetector, tmp_path / "out", on_error="stop")
    result = evaluate([category], FakeDetector, tmp_path / "out").categories[0]
    assert [str(mask) in failure.reason for failure in result.failed] == [True]
    # The image itself was judged, and stays in the figures by image.
    assert len(result.images) == 6


def test_training_images_left_out_are_listed(tmp_path: Path) -> None:
    error = ImageError("train/001.png: cannot be read")
    error.path = "train/001.png"
    evaluation = evaluate([draw_category(tmp_path)], lambda: FakeDetector(skipped=[error]), tmp_path / "out")
    assert [(each.path, each.reason) for each in evaluation.categories[0].failed] == [
        ("train/001.png", "train/001.png: cannot be read")
    ]


def test_what_was_done_survives_a_failure(tmp_path: Path) -> None:
    out = tmp_path / "out"
    detectors = iter([FakeDetector(), FakeDetector(fails_after=2)])
    categories = [draw_category(tmp_path, "nut"), draw_category(tmp_path, "bolt")]
    with pytest.raises(PatchcoreError, match="the power went"):
        evaluate(categories, lambda: next(detectors), out)
    assert len(json_lines(out / "bolt/results.jsonl")) == 2
    assert list(json.loads((out / "metrics.json").read_text(encoding="utf-8"))["categories"]) == ["nut"]


def test_missing_figures_are_null_and_left_out_of_the_mean(tmp_path: Path) -> None:
    whole = draw_category(tmp_path, "nut")
    only_good = Category("bolt", whole.train, whole.test[:3])
    detectors = iter([FakeDetector(), FakeDetector(covering_radius=float("nan"))])
    evaluate([whole, only_good], lambda: next(detectors), tmp_path / "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["categories"]["bolt"]["image_auroc"] is None
    assert metrics["categories"]["bolt"]["aupro"] is None
    assert metrics["categories"]["bolt"]["covering_radius"] is None
    assert (metrics["mean"]["image_auroc"], metrics["mean"]["covering_radius"]) == (1.0, 0.25)


def test_progress_and_time_of_prediction_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(FakeDetector):
        def predict_each(
            self, paths: Sequence[Path], *, on_error: OnError, keep_pixels: bool
        ) -> Iterator[FakePrediction | ImageError]:
            for item in super().predict_each(paths, on_error=on_error, keep_pixels=keep_pixels):
                clock[0] += 2.0
                yield item

    original = ResultsWriter.write

    def slow_write(self: ResultsWriter, *args: Any, **extra: Any) -> dict[str, Any]:
        clock[0] += 100.0
        return original(self, *args, **extra)

    monkeypatch.setattr(ResultsWriter, "write", slow_write)
    steps: list[tuple[str, int, int]] = []
    evaluation = evaluate([draw_category(tmp_path)], Slow, tmp_path / "out", progress=lambda *step: steps.append(step))
    assert evaluation.categories[0].metrics["predict_seconds_per_image"] == 2.0
    assert steps[0] == ("nut: patches", 1, 1)
    assert steps[1:] == [("nut: predict", done, 6) for done in range(7)]


def test_one_category_is_probed_when_its_last_image_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    category = draw_category(tmp_path)
    category = Category(category.name, category.train * 4, category.test)
    seen: list[object] = []
    add = PixelScores.add

    def added(self: PixelScores, *arguments: Any) -> None:
        seen.append("pixels")
        add(self, *arguments)

    monkeypatch.setattr(PixelScores, "add", added)

    class Dozing(FakeDetector):
        def fit(self, paths: Sequence[Path], *, on_error: OnError, progress: Progress | None) -> None:
            time.sleep(0.05)

    def probe() -> dict[str, float | None]:
        seen.append(len(json_lines(tmp_path / "out" / "results.jsonl")))
        return {"peak_memory_bytes": 5.0}

    left_out = Dozing(skipped=[ImageError("x")])
    found = evaluate_category(category, left_out, tmp_path / "out", probe=probe).metrics
    # Pixels are gathered afterwards: they are this program's memory, not the method's.
    assert seen == [6, *["pixels"] * 6]
    assert found["peak_memory_bytes"] == 5.0
    assert found["fit_seconds"] is not None
    assert found["fit_seconds"] >= 0.05
    assert found["fit_seconds_per_image"] == found["fit_seconds"] / 3
    # What the maps were kept in meanwhile is gone.
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["heat_maps", "overlays", "results.jsonl"]


def test_a_json_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
