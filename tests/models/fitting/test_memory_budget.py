"""A fit within a memory budget: rows in memory, memory bank, threshold, and what is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.models.fitting import memory
from patchcore_plugin.models.fitting.buffer import PatchBuffer
from patchcore_plugin.models.fitting.hold_out import held_out_indices
from tests.models import tiny
from tests.models.tiny import DIMS, PATCHES, distances, draw, rows, scores

GOOD = [draw(number) for number in range(100)]
ROW = memory.SLACK * (DIMS * 4 * memory.COPIES + memory.ORIGIN)
FULL = math.ceil(len(GOOD) * PATCHES * DIMS * 4 * memory.COPIES)
SMALL = int(1600 * ROW)
"""Bytes for 1600 of 6400 patches: 960 for the bank, and more than a batch of 8 images."""


@pytest.fixture
def reductions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Rows allocated, of the bank, and in use, before each reduction."""
    calls: list[tuple[int, int, int]] = []
    reduce = PatchBuffer.reduce

    def record(buffer: PatchBuffer, index: torch.Tensor) -> None:
        calls.append((len(buffer._vectors), buffer.bank_rows, buffer.rows))
        reduce(buffer, index)

    monkeypatch.setattr(PatchBuffer, "reduce", record)
    return calls


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.5])
def test_rows_stay_within_the_budget(ratio: float, reductions: list[tuple[int, int, int]]) -> None:
    detector = tiny.detector(sampler={"ratio": ratio}).fit(GOOD, memory_budget=SMALL)
    assert len(reductions) > 5
    assert {allocated for allocated, _, _ in reductions} == {1600}
    assert [bank for _, bank, _ in reductions] == sorted(bank for _, bank, _ in reductions)
    assert sum(used - bank for _, bank, used in reductions) == detector.bank.seen == 6400
    assert detector.bank_rows == min(math.ceil(ratio * 6400), 960)
    everything = rows(detector, GOOD)
    assert detector.covering_radius is not None
    assert float(distances(everything, detector.bank.vectors).max()) <= detector.covering_radius * (1 + 1e-6)
    assert not detector.member.radius_is_exact
    if ratio < 0.5:
        full = tiny.detector(sampler={"ratio": ratio}).fit(GOOD)
        assert detector.covering_radius < 1.5 * float(distances(everything, full.bank.vectors).max())
    for row, (image, y, x) in zip(detector.bank.vectors[::50], detector.bank.origin[::50].tolist(), strict=True):
        assert torch.equal(row, everything.view(100, 8, 8, -1)[image, y, x])


def test_held_out_images_are_scored_by_those_before_them() -> None:
    detector = tiny.detector().fit(GOOD, memory_budget=SMALL)
    held_out = held_out_indices(100, 0).tolist()
    assert len(detector.calibration.scores) == len(detector.held_out_scores) == len(held_out) == 10
    assert "10 of 100 good images" in detector.calibration.source
    others = tiny.detector().fit([image for index, image in enumerate(GOOD) if index not in held_out])
    expected = scores(others, [GOOD[index] for index in held_out])
    assert np.mean(detector.calibration.scores) == pytest.approx(np.mean(expected), rel=0.1)
    after = scores(detector, [GOOD[index] for index in held_out])
    assert np.mean(after) < 0.9 * np.mean(expected)


def test_patches_that_fit_into_the_budget_are_all_kept(tmp_path: Path) -> None:
    for name, budget in (("plain", None), ("budget", FULL)):
        tiny.detector().fit(GOOD, memory_budget=budget).save(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "plain.safetensors").read_bytes() == (tmp_path / "budget.safetensors").read_bytes()
    assert not tiny.detector().fit(GOOD, memory_budget=FULL - 1).member.radius_is_exact


def test_streaming_scorers_work_within_any_budget() -> None:
    changes: dict[str, Any] = {"aggregator": {"channels": 8}}
    within, plain = (tiny.detector("padim", **changes).fit(GOOD[:20], memory_budget=each) for each in (1000, None))
    assert scores(within, GOOD[20:23]) == scores(plain, GOOD[20:23])


def test_the_work_is_announced() -> None:
    lines: list[str] = []
    tiny.detector().fit(GOOD, memory_budget=SMALL, announce=lines.append)
    assert len(lines) == 1
    assert re.search(r"6,400 patches.* 1,600 .*0\.3 MB.* 960 rows.* \d+ s.* \d+ s$", lines[0])


def test_a_budget_that_is_too_small_is_refused_with_one_that_is_enough() -> None:
    enough = (64 + 8 * PATCHES) * ROW
    with pytest.raises(pp.PatchcoreError, match=r"6,400 patches of 8 values.*0\.1 MB is too small.*at least 0\.1 MB"):
        tiny.detector().fit(GOOD, memory_budget=int(enough - ROW / 2))
    assert tiny.detector(sampler={"ratio": 0.5}).fit(GOOD, memory_budget=math.ceil(enough)).bank_rows >= 64


def test_a_sampler_that_keeps_all_patches_is_refused() -> None:
    with pytest.raises(pp.OptionError, match="sampler 'all' keeps every patch") as caught:
        tiny.detector(sampler="all").fit(GOOD, memory_budget=SMALL)
    assert memory.size_text(FULL) in str(caught.value)


def test_a_rate_for_which_too_few_images_are_held_out_is_refused_first() -> None:
    tiny.extracted.clear()
    with pytest.raises(pp.CalibrationError, match=r"at least 19 .* there are 10"):
        tiny.detector().fit(GOOD, memory_budget=SMALL, false_alarm_rate=0.05)
    assert sum(tiny.extracted) == 1
    assert tiny.detector().fit(GOOD, memory_budget=FULL, false_alarm_rate=0.05).calibration.rate == 0.05
