"""A fit: memory bank, threshold, covering radius, strategies, and what is announced."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.data.images import write_png
from patchcore_plugin.kernels import device
from patchcore_plugin.models.fitting import memory
from patchcore_plugin.models.fitting.fit import FitOptions, choose_strategy, update_strategy
from patchcore_plugin.models.fitting.hold_out import folds
from patchcore_plugin.models.fitting.merge_reduce import MergeReduceFit
from patchcore_plugin.models.fitting.strategies import InMemoryFit, StreamingFit
from tests.models import tiny
from tests.models.tiny import DIMS, PATCHES, draw, map_of

GOOD = [draw(seed) for seed in range(12)]
ROW = math.ceil(memory.SLACK * (DIMS * 4 * memory.COPIES + memory.ORIGIN))
"""Bytes of a row within a budget."""
STREAMING: dict[str, Any] = {"aggregator": {"channels": 8}}


# The threshold


def test_each_image_is_scored_by_a_bank_of_the_other_folds() -> None:
    detector = tiny.detector(sampler="all").fit(GOOD)
    scores, peaks = {}, []
    for fold in folds(12, 0):
        others = tiny.detector(sampler="all").fit([image for index, image in enumerate(GOOD) if index not in fold])
        for index, prediction in zip(fold.tolist(), others.predict([GOOD[index] for index in fold]), strict=True):
            scores[index] = prediction.score
            peaks.append(map_of(prediction).max())
    calibration = detector.calibration
    assert calibration.scores == pytest.approx(sorted(scores.values()), rel=1e-4)
    assert calibration.peaks == pytest.approx(sorted(peaks), rel=1e-4)
    assert (calibration.threshold, calibration.map_threshold) == (calibration.scores[-1], calibration.peaks[-1])
    assert "12 good images" in calibration.source
    assert "5 folds" in calibration.source
    assert [score for _, score in detector.held_out_scores] == pytest.approx(
        [scores[index] for index in range(12)], rel=1e-4
    )


def test_the_threshold_is_for_the_target_rate() -> None:
    detector = tiny.detector().fit(GOOD, false_alarm_rate=0.25)
    assert detector.threshold == detector.calibration.scores[-3]
    assert detector.calibration.false_alarm_rate == 3 / 13


@pytest.mark.parametrize(("name", "images"), [("patchcore", 12), ("padim", 120)])
def test_a_rate_for_which_there_are_too_few_images_is_refused_first(name: str, images: int) -> None:
    """No image is read; with a streaming scorer only the held-out tenth counts."""
    detector = tiny.detector(name, **(STREAMING if name == "padim" else {}))
    with pytest.raises(pp.CalibrationError, match=r"at least 19 .* there are 12"):
        detector.fit(["nowhere.png"] * images, false_alarm_rate=0.05)


def test_a_single_image_gives_no_threshold() -> None:
    detector = tiny.detector().fit(GOOD[:1])
    (prediction,) = detector.predict([draw(1)])
    assert (detector.threshold, prediction.is_anomalous) == (None, None)
    assert detector.calibration.source.startswith("none: ")
    assert detector.covering_radius
    assert detector.map_scale == (0.0, 2 * detector.covering_radius)


@pytest.mark.parametrize("cross_validate", [False, True])
def test_a_streaming_scorer_is_cross_fitted_on_request(cross_validate: bool) -> None:
    detector = tiny.detector("padim", **STREAMING).fit(GOOD, cross_validate=cross_validate)
    assert len(detector.held_out_scores) == (12 if cross_validate else 2)


# The memory bank


def test_origin_has_image_row_and_column_of_each_row(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        write_png(path, draw(seed))
    detector = tiny.detector(sampler="all").fit(paths)
    assert detector.bank.seen == len(detector.bank.origin) == 3 * PATCHES
    assert detector.bank.origin[65].tolist() == [1, 0, 1]
    (prediction,) = detector.predict([paths[2]])
    assert prediction.nearest is not None
    assert prediction.nearest.image == str(paths[2])
    assert (prediction.nearest.x, prediction.nearest.y) == (prediction.nearest.peak_x, prediction.nearest.peak_y)
    assert prediction.score < 0.1


@pytest.mark.parametrize("sampler", [{"ratio": 0.1}, {"ratio": 0.1, "projection_dim": 4}, {"name": "random"}])
def test_covering_radius_is_the_largest_distance_to_the_bank(sampler: dict[str, Any]) -> None:
    detector = tiny.detector(sampler=sampler).fit(GOOD[:3])
    expected = tiny.distances(tiny.rows(detector, GOOD[:3]), detector.bank.vectors).max()
    assert detector.covering_radius == pytest.approx(float(expected), rel=1e-5)
    assert detector.member.radius_is_exact


def test_radius_curve_falls_to_the_covering_radius() -> None:
    detector = tiny.detector().fit(GOOD)
    rows, radii = zip(*detector.member.radius_curve, strict=True)
    assert rows[-1] == detector.bank_rows
    assert len(rows) > 5
    assert list(radii) == sorted(radii, reverse=True)
    assert radii[-1] == detector.covering_radius
    smaller = tiny.detector(sampler={"ratio": 0.2, "radius": radii[-3]}).fit(GOOD)
    assert smaller.bank_rows <= rows[-3]
    assert smaller.covering_radius is not None
    assert smaller.covering_radius <= radii[-3]


def test_samplers_that_break_the_contract_are_named() -> None:
    class Plugin:
        @staticmethod
        @pp.hookimpl
        def patchcore_samplers() -> list[pp.SamplerSpec]:
            def outside(config: Any) -> Any:
                return lambda vectors: torch.tensor([len(vectors)])

            def floats(config: Any) -> Any:
                return lambda vectors: torch.tensor([0.5])

            return [
                pp.SamplerSpec(name="outside", config=tiny.Config, create=outside, summary="an index too high"),
                pp.SamplerSpec(name="floats", config=tiny.Config, create=floats, summary="no indices"),
            ]

    host = tiny.host(broken=Plugin())
    for name, problem in (("outside", "indices below 64, got 64"), ("floats", "int64 indices")):
        detector = pp.Detector(tiny.recipe(sampler=name), device="cpu", host=host)
        with pytest.raises(pp.TensorError, match=f"sampler '{name}': expected {problem}"):
            detector.fit(GOOD[:1])


# Strategies


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("patchcore", {}, InMemoryFit),
        ("patchcore", {"memory_budget": 10**6}, InMemoryFit),
        ("patchcore", {"memory_budget": 1600 * ROW}, MergeReduceFit),
        ("padim", {}, StreamingFit),
        ("padim", {"memory_budget": 1000}, StreamingFit),
        ("padim", {"cross_validate": True}, InMemoryFit),
    ],
)
def test_the_strategy_of_a_fit(name: str, options: dict[str, Any], kind: type) -> None:
    pipeline = tiny.pipeline(name, **(STREAMING if name == "padim" else {}))
    assert isinstance(choose_strategy(pipeline, GOOD * 9, FitOptions(seed=0, **options)), kind)


@pytest.mark.parametrize(("name", "kind"), [("patchcore", MergeReduceFit), ("padim", StreamingFit)])
def test_the_strategy_of_an_update(name: str, kind: type) -> None:
    detector = tiny.detector(name, **(STREAMING if name == "padim" else {})).fit(GOOD)
    member = detector.member
    assert isinstance(update_strategy(member.pipeline, member.fitted, 12, 3, None), kind)


# Memory and progress


def test_too_little_memory_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available", lambda device: 10_000)
    tiny.extracted.clear()
    with pytest.raises(pp.PatchcoreError, match="768 patches of 8 values"):
        tiny.detector().fit(GOOD)
    assert tiny.extracted == [8]
    monkeypatch.setattr(device, "available", lambda device: 10**15)
    tiny.detector().fit(GOOD[:2])


def test_memory_and_time_are_announced_after_the_first_images() -> None:
    lines: list[str] = []
    tiny.detector().fit([draw(seed) for seed in range(20)], announce=lines.append)
    assert len(lines) == 1
    assert re.search(r"20 images .*1,280 patches of 8 values.* GB of memory.* \d+ s", lines[0])


def test_progress_has_stages() -> None:
    stages: list[tuple[str, int, int]] = []
    tiny.detector().fit(GOOD, progress=lambda *stage: stages.append(stage))
    assert [stage for stage in stages if stage[0] == "reading images"] == [
        ("reading images", 8, 12),
        ("reading images", 12, 12),
    ]
    assert any(stage.startswith("selecting patches") for stage, _, _ in stages)


# Failures


def test_a_fit_that_fails_leaves_the_detector_as_it_was(tmp_path: Path) -> None:
    for name, changes in (("patchcore", {}), ("padim", STREAMING)):
        detector = tiny.detector(name, **changes).fit(GOOD)
        detector.save(tmp_path / "before.safetensors")
        before = tiny.scores(detector, [draw(50)])
        with pytest.raises(pp.ImageError, match=r"missing\.png"):
            detector.fit([draw(20), draw(21), "missing.png"])
        detector.save(tmp_path / "after.safetensors")
        assert (tmp_path / "after.safetensors").read_bytes() == (tmp_path / "before.safetensors").read_bytes()
        assert tiny.scores(detector, [draw(50)]) == before
