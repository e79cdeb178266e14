"""Evaluation with a detector of a few lines: the darkness of a pixel is its anomaly score."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from patchcore_plugin import datasets
from patchcore_plugin.calibration import Calibration, GoodPhoto
from patchcore_plugin.datasets import Category
from patchcore_plugin.errors import ImageError, PatchcoreError
from patchcore_plugin.evaluation import OnError, Progress, evaluate, evaluate_category
from patchcore_plugin.metrics import PixelScores, pixel_metrics
from patchcore_plugin.regions import Region, find_regions
from patchcore_plugin.result_writer import ResultsWriter
from patchcore_plugin.results import METRICS, write_json


@dataclass(frozen=True)
class FakeNearest:
    photo: str | None = "train/good/000.png"
    x: int = 3
    y: int = 4
    peak_x: int = 5
    peak_y: int = 6
    distance: float = 0.5
    number: int = 0
    size: tuple[int, int] = (24, 32)
    box: tuple[int, int, int, int] = (0, 0, 8, 8)
    peak_box: tuple[int, int, int, int] = (0, 0, 8, 8)


@dataclass(frozen=True)
class FakePrediction:
    path: str | None
    score: float
    anomaly_map: npt.NDArray[np.float32] | None
    threshold: float | None = 0.5
    is_anomalous: bool | None = True
    nearest: FakeNearest | None = field(default_factory=FakeNearest)
    p_value: float | None = 0.25
    regions: Sequence[Region] = ()
    size: tuple[int, int] = (24, 32)


CALIBRATION = Calibration.of_good([GoodPhoto(score, 0.0, score) for score in (0.2, 0.3, 0.4)], "three").at_threshold(
    0.5
)


@dataclass
class FakeDetector:
    has_maps: bool = True
    fails_after: int | None = None
    covering_radius: float = 0.25
    threshold: float | None = 0.5
    map_scale: tuple[float, float] = (0.5, 1.0)
    bank_rows: int = 7
    skipped: list[ImageError] = field(default_factory=list)
    calibration: Calibration = CALIBRATION
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        return {"seed": 3}

    def fit(self, paths: Sequence[Path], *, on_error: OnError, progress: Progress | None) -> None:
        if not paths:
            raise PatchcoreError("no photos to fit on")
        if progress is not None:
            progress("patches", len(paths), len(paths))

    def predict_each(self, paths: Sequence[Path], *, on_error: OnError) -> Iterator[FakePrediction | ImageError]:
        for number, path in enumerate(paths):
            if number == self.fails_after:
                raise PatchcoreError("the power went")
            grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.stat().st_size > 20 else None
            if grey is None:
                error = ImageError(f"{path}: cannot be read")
                if on_error == "stop":
                    raise error
                yield error
                continue
            darkness = (1 - grey / 255).astype(np.float32)
            score = float(darkness.max())
            yield FakePrediction(str(path), score, darkness if self.has_maps else None)


def draw(path: Path, grey: int, spot: int | None = None, shape: tuple[int, int] = (24, 32)) -> Path:
    """Write a grey photo with a darker square."""
    photo = np.full((*shape, 3), grey, dtype=np.uint8)
    if spot is not None:
        photo[4:10, 6:14] = spot
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), photo)
    return path


def draw_mask(path: Path, shape: tuple[int, int] = (24, 32)) -> Path:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[4:10, 6:14] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask)
    return path


def make_category(folder: Path, name: str = "nut") -> Category:
    root = folder / name
    good = [draw(root / f"test/good/{k:03}.png", 200 - 10 * k) for k in range(3)]
    bad = [draw(root / f"test/hole/{k:03}.png", 200, spot=20 + 40 * k) for k in range(3)]
    masks = [draw_mask(root / f"ground_truth/hole/{k:03}_mask.png") for k in range(3)]
    return Category(
        name=name,
        train=(draw(root / "train/good/000.png", 200),),
        test=(
            *(datasets.TestPhoto(path, "good", False, None) for path in good),
            *(datasets.TestPhoto(path, "hole", True, mask) for path, mask in zip(bad, masks, strict=True)),
        ),
    )


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_figures_files_and_keys(tmp_path: Path) -> None:
    out = tmp_path / "out"
    categories = [make_category(tmp_path, "nut"), make_category(tmp_path, "bolt")]
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

    lines = records(out / "nut" / "results.jsonl")
    assert [Path(line["path"]) for line in lines] == [photo.path for photo in categories[0].test]
    spot = lines[4]
    assert spot["score"] == pytest.approx(1 - 60 / 255)
    assert (spot["threshold"], spot["is_anomalous"], spot["kind"], spot["label"]) == (0.5, True, "hole", True)
    assert spot["nearest"] == {
        "photo": "train/good/000.png", "x": 3, "y": 4, "peak_x": 5, "peak_y": 6, "distance": 0.5
    }  # fmt: skip
    assert spot["scale"] == [0.5, 1.0]
    heat = cv2.imread(str(out / "nut" / spot["map"]))
    over = cv2.imread(str(out / "nut" / spot["overlay"]))
    assert heat is not None
    assert over is not None
    assert heat.shape == over.shape == (24, 32, 3)
    # The good part is below the scale: black heat, and the photo as it was.
    assert (heat[20, 30] < 10).all()
    assert (over[20, 30] == 200).all()
    assert (over[6, 8] != 60).any()
    assert len({line["map"] for line in lines} | {line["overlay"] for line in lines}) == 12


def test_what_the_models_own_threshold_makes_of_the_photos(tmp_path: Path) -> None:
    category = make_category(tmp_path)
    dark = datasets.TestPhoto(draw(tmp_path / "nut/test/good/dark.png", 90), "good", False, None)
    weak = datasets.TestPhoto(draw(tmp_path / "nut/test/scratch/0.png", 200, spot=150), "scratch", True, None)
    category = replace(category, test=(*category.test, dark, weak))

    class Region(FakeDetector):
        def predict_each(self, paths: Sequence[Path], *, on_error: OnError) -> Iterator[FakePrediction | ImageError]:
            for found in super().predict_each(paths, on_error=on_error):
                assert isinstance(found, FakePrediction)
                assert found.anomaly_map is not None
                yield replace(found, regions=find_regions(found.anomaly_map, 0.45), p_value=found.score / 2)

    evaluation = evaluate([category], Region, tmp_path / "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["at_threshold"] == {
        "nut": {
            "promised_false_alarm_rate": 0.25,
            "calibration_photos": 3,
            "threshold": 0.5,
            "good": 4,
            "false_alarms": 1,
            "false_alarm_rate": 0.25,
            "defective": 4,
            "detected": 3,
            "detection_rate": 0.75,
            "kinds": {
                "hole": {"photos": 3, "detected": 3, "detection_rate": 1.0},
                "scratch": {"photos": 1, "detected": 0, "detection_rate": 0.0},
            },
        }
    }
    assert metrics["categories"]["nut"]["false_alarm_rate"] == metrics["mean"]["false_alarm_rate"] == 0.25
    assert metrics["categories"]["nut"]["detection_rate"] == metrics["mean"]["detection_rate"] == 0.75
    (found,) = evaluation.categories
    assert [photo.regions for photo in found.photos] == [0, 0, 0, 1, 1, 1, 1, 0]
    assert [photo.area for photo in found.photos] == pytest.approx([0, 0, 0, *[48 / 768] * 3, 1, 0])
    assert [photo.p_value for photo in found.photos] == [photo.score / 2 for photo in found.photos]
    assert found.model == {"photos": 1, "folders": ["nut/train/good"], "seed": 3}
    assert found.calibration == CALIBRATION


def test_without_a_threshold_there_are_no_verdicts(tmp_path: Path) -> None:
    evaluate([make_category(tmp_path)], lambda: FakeDetector(threshold=None), tmp_path / "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["at_threshold"] == {"nut": None}
    assert metrics["mean"]["false_alarm_rate"] is None


def test_pixels_count_where_the_truth_is_known(tmp_path: Path) -> None:
    category = make_category(tmp_path)
    # A defective photo without a mask, whose every pixel would be a false positive if taken for good.
    unmarked = datasets.TestPhoto(draw(tmp_path / "x.png", 0), "unmarked", True, None)
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
    assert len(evaluation.categories[0].photos) == 5


def test_methods_without_maps(tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluation = evaluate([make_category(tmp_path)], lambda: FakeDetector(has_maps=False), out)
    figures = evaluation.categories[0].metrics
    assert (figures["pixel_auroc"], figures["aupro"]) == (None, None)
    assert figures["image_auroc"] == 1.0
    assert {(line["map"], line["overlay"], line["scale"]) for line in records(out / "nut/results.jsonl")} == {
        (None, None, None)
    }
    assert list(out.rglob("*.png")) == []


def test_an_unreadable_photo_is_listed_and_the_rest_counts(tmp_path: Path) -> None:
    category = make_category(tmp_path)
    broken = category.test[1].path
    broken.write_bytes(b"no picture")
    evaluation = evaluate([category], FakeDetector, tmp_path / "out")
    (failure,) = evaluation.categories[0].failed
    assert failure.path == str(broken)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["failed"] == [{"category": "nut", "path": str(broken), "reason": f"{broken}: cannot be read"}]
    assert metrics["categories"]["nut"]["image_auroc"] == 1.0
    assert len(records(tmp_path / "out/nut/results.jsonl")) == 5
    with pytest.raises(ImageError, match="cannot be read"):
        evaluate([category], FakeDetector, tmp_path / "out", on_error="stop")


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    category = make_category(tmp_path)
    mask = category.test[3].mask
    assert mask is not None
    draw_mask(mask, (24, 30))
    with pytest.raises(ImageError, match=r"30 x 24 pixels, but its photo .* has 32 x 24"):
        evaluate([category], FakeDetector, tmp_path / "out", on_error="stop")
    result = evaluate([category], FakeDetector, tmp_path / "out").categories[0]
    assert [str(mask) in failure.reason for failure in result.failed] == [True]
    # The photo itself was judged, and stays in the figures by photo.
    assert len(result.photos) == 6


def test_what_was_done_survives_a_failure(tmp_path: Path) -> None:
    out = tmp_path / "out"
    detectors = iter([FakeDetector(), FakeDetector(fails_after=2)])
    categories = [make_category(tmp_path, "nut"), make_category(tmp_path, "bolt")]
    with pytest.raises(PatchcoreError, match="the power went"):
        evaluate(categories, lambda: next(detectors), out)
    assert len(records(out / "bolt/results.jsonl")) == 2
    assert list(json.loads((out / "metrics.json").read_text(encoding="utf-8"))["categories"]) == ["nut"]


def test_missing_figures_are_null_and_left_out_of_the_mean(tmp_path: Path) -> None:
    whole = make_category(tmp_path, "nut")
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
        def predict_each(self, paths: Sequence[Path], *, on_error: OnError) -> Iterator[FakePrediction | ImageError]:
            for item in super().predict_each(paths, on_error=on_error):
                clock[0] += 2.0
                yield item

    original = ResultsWriter.write

    def slow_write(self: ResultsWriter, *args: Any, **extra: Any) -> dict[str, Any]:
        clock[0] += 100.0
        return original(self, *args, **extra)

    monkeypatch.setattr(ResultsWriter, "write", slow_write)
    steps: list[tuple[str, int, int]] = []
    evaluation = evaluate([make_category(tmp_path)], Slow, tmp_path / "out", progress=lambda *step: steps.append(step))
    assert evaluation.categories[0].metrics["predict_seconds_per_image"] == 2.0
    assert steps[0] == ("nut: patches", 1, 1)
    assert steps[1:] == [("nut: predict", done, 6) for done in range(7)]


def test_photos_of_one_name_get_files_of_their_own(tmp_path: Path) -> None:
    photo = np.full((4, 6, 3), 90, dtype=np.uint8)
    values = np.zeros((4, 6), dtype=np.float32)
    paths = ["a/cut/1.png", "b/cut/1.png", "b/Cut/1.png", "a/cut/1.jpg", "hole/1.png", "ä b/1?.png", "1.png"]
    with ResultsWriter(tmp_path, (0.0, 1.0)) as writer:
        written = [writer.write(FakePrediction(path, 1.0, values), photo) for path in [*paths, None, None]]
    names = [Path(record["map"]).stem for record in written]
    expected = ["cut_1", "cut_1-2", "Cut_1-3", "cut_1-4", "hole_1", "ä_b_1_", "1", "photo", "photo-2"]
    assert names == expected
    assert all((tmp_path / record["map"]).is_file() for record in written)
    assert all((tmp_path / record["overlay"]).is_file() for record in written)


def test_lines_are_on_disk_at_once_and_a_new_run_starts_afresh(tmp_path: Path) -> None:
    values = np.zeros((4, 6), dtype=np.float32)
    for _ in range(2):
        with ResultsWriter(tmp_path, (0.0, 1.0)) as writer:
            record = writer.write(FakePrediction("1.png", 1.0, values), None, note="x")
            assert records(tmp_path / "results.jsonl") == [record]
            assert (record["overlay"], record["note"]) == (None, "x")
    with pytest.raises(ValueError, match="with"):
        writer.write(FakePrediction("1.png", 1.0, values), None)


def test_a_json_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_training_photos_left_out_are_listed(tmp_path: Path) -> None:
    error = ImageError("train/001.png: cannot be read")
    error.path = "train/001.png"
    evaluation = evaluate([make_category(tmp_path)], lambda: FakeDetector(skipped=[error]), tmp_path / "out")
    assert [(each.path, each.reason) for each in evaluation.categories[0].failed] == [
        ("train/001.png", "train/001.png: cannot be read")
    ]


def test_one_category_is_probed_when_its_last_photo_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    category = make_category(tmp_path)
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
        seen.append(len(records(tmp_path / "out" / "results.jsonl")))
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
