"""A fit within a memory budget: what is in memory, what it learns, and what is refused."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patchcore_plugin.models.fitting.learners import Kept
from patchcore_plugin.models.fitting.reducing import Union

import patchcore_plugin as pp
from patchcore_plugin import cli
from patchcore_plugin.kernels import device
from patchcore_plugin.models.calibration import fit_order, held_out
from patchcore_plugin.models.fitting import memory
from patchcore_plugin.models.fitting.merge_reduce import Merged
from tests.models import tiny
from tests.models.test_update import distances, patches

GOOD = [tiny.draw(number) for number in range(100)]
PATCHES, DIMS = 64, 8
ROW = memory.SLACK * (DIMS * 4 * memory.COPIES + memory.ORIGIN)
EVERY = math.ceil(len(GOOD) * PATCHES * DIMS * 4 * memory.COPIES)
SMALL = int(1600 * ROW)
"""Room for 1600 of 6400 patches: 960 for the bank, and more than a batch of 8 images."""


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Rows that were allocated, and those of the bank and of the union before each reduction."""
    seen: list[tuple[int, int, int]] = []
    reduce: Callable[..., None] = Union.reduce

    def watching(union: Union, *args: Any) -> None:
        seen.append((len(union._vectors), union._rows, union._count))
        reduce(union, *args)

    monkeypatch.setattr(Union, "reduce", watching)
    return seen


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.5])
def test_rows_stay_within_the_budget(ratio: float, watched: list[tuple[int, int, int]]) -> None:
    detector = tiny.detector(sampler={"ratio": ratio}).fit(GOOD, memory_budget=SMALL)
    assert len(watched) > 5
    assert {rows for rows, _, _ in watched} == {1600}
    assert [bank for _, bank, _ in watched] == sorted(bank for _, bank, _ in watched)
    assert detector.bank.seen == 6400
    assert detector.bank_rows == min(math.ceil(ratio * 6400), 960)
    assert sum(count - bank for _, bank, count in watched) == 6400
    everything = patches(detector, GOOD)
    true = float(distances(everything, detector.bank.vectors).max())
    assert detector.covering_radius is not None
    assert true <= detector.covering_radius * (1 + 1e-6)
    assert not detector.radius_is_exact
    if ratio < 0.5:
        full = tiny.detector(sampler={"ratio": ratio}).fit(GOOD)
        assert detector.covering_radius < 1.5 * float(distances(everything, full.bank.vectors).max())
    order = np.concatenate(fit_order(100, 0))
    for row, (image, y, x) in zip(detector.bank.vectors[::50], detector.bank.origin[::50].tolist(), strict=True):
        assert torch.equal(row, patches(detector, [GOOD[order[image]]]).view(8, 8, -1)[y, x])


def test_held_out_images_are_judged_by_those_before_them() -> None:
    detector = tiny.detector().fit(GOOD, memory_budget=SMALL)
    late = held_out(100, 0).tolist()
    assert len(detector.calibration.scores) == len(late) == 10
    assert detector.calibration.source == (
        "scores of 10 of 100 good images, held out and judged by a bank of those before them"
    )
    # The first batch is judged by a bank that knows none of them.
    known = np.setdiff1d(np.arange(100), late)
    others = tiny.detector().fit([GOOD[number] for number in known])
    plain = [found.score for found in others.predict([GOOD[number] for number in late])]
    assert np.mean(detector.calibration.scores) == pytest.approx(np.mean(plain), rel=0.1)
    in_it = [found.score for found in detector.predict([GOOD[number] for number in late])]
    assert np.mean(in_it) < 0.9 * np.mean(plain)


def test_what_fits_is_fitted_as_without_a_budget(tmp_path: Path) -> None:
    for number, budget in enumerate((None, EVERY)):
        tiny.detector().fit(GOOD, memory_budget=budget).save(tmp_path / f"{number}.safetensors")
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()
    assert not tiny.detector().fit(GOOD, memory_budget=EVERY - 1).radius_is_exact


def test_methods_that_need_no_patches_take_any_budget() -> None:
    changes: dict[str, Any] = {"aggregator": {"channels": 8}}
    within, plain = (tiny.detector("padim", **changes).fit(GOOD[:20], memory_budget=each) for each in (1000, None))
    assert [found.score for found in within.predict(GOOD[20:23])] == [
        found.score for found in plain.predict(GOOD[20:23])
    ]


def test_the_work_is_announced() -> None:
    said: list[str] = []
    tiny.detector().fit(GOOD, memory_budget=SMALL, announce=said.append)
    assert len(said) == 1
    assert said[0].startswith(
        "100 images make 6,400 patches, at most 1,600 of which are in memory (0.3 MB with all that is made of them); "
        "the bank has at most 960 rows; reading the rest takes about "
    )
    assert re.search(r"about \d+ s, selecting patches about \d+ s$", said[0])


def test_too_small_a_budget_is_refused_with_one_that_does() -> None:
    with pytest.raises(pp.PatchcoreError) as caught:
        tiny.detector().fit(GOOD, memory_budget=30_000)
    smallest = (64 + 8 * PATCHES) * ROW
    assert str(caught.value) == (
        "100 images make 6,400 patches of 8 values: a memory budget of 0.1 MB has no room for a bank of 1% of them and "
        "a batch of images; give at least 0.1 MB, raise aggregator.stride, lower preprocessing.size, or choose a "
        "backbone with fewer channels"
    )
    with pytest.raises(pp.PatchcoreError):
        tiny.detector().fit(GOOD, memory_budget=int(smallest - ROW / 2))
    assert tiny.detector(sampler={"ratio": 0.5}).fit(GOOD, memory_budget=math.ceil(smallest)).bank_rows >= 64


@pytest.mark.parametrize("images", [3, 40, 100, 1000, 20_000])
@pytest.mark.parametrize("dims", [3, 312])
def test_the_smallest_budget_is_the_smallest(images: int, dims: int) -> None:
    def share(budget: int) -> memory.Share | None:
        return memory.share(budget, images, 64, dims, torch.device("cpu"), batch=8)

    low, high = 0, math.ceil(images * 64 * dims * 4 * memory.COPIES)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            share(middle)
            high = middle
        except pp.PatchcoreError as error:
            low, said = middle, str(error)
    if images > 10:
        assert said.partition("give at least ")[2].startswith(f"{memory.text(high)}, ")
        found = share(high)
        assert found is not None
        assert found.bank >= 0.01 * images * 64
        assert found.rows - found.bank >= 8 * 64


def test_a_budget_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available", lambda device: 10**5)
    with pytest.raises(pp.PatchcoreError) as caught:
        tiny.detector().fit(GOOD, memory_budget=10**9)
    assert str(caught.value) == (
        "the memory budget is 1.0 GB, and 0.1 MB are free; lower the budget, or close other programs"
    )


def test_who_cannot_reduce_is_refused() -> None:
    with pytest.raises(pp.OptionError) as caught:
        tiny.detector(sampler="all").fit(GOOD, memory_budget=SMALL)
    assert str(caught.value) == (
        f"sampler 'all' keeps every patch, and they do not fit into the memory budget; give {memory.text(EVERY)}, or "
        "take --sampler greedy-coreset"
    )
    recipe = pp.Recipe.from_dict({"name": "one", "members": [{"recipe": "patchcore", "backbone": "tiny"}]})
    with pytest.raises(pp.OptionError, match="an ensemble cannot be fitted within a memory budget; fit its members as"):
        pp.Detector(recipe, device="cpu", host=tiny.host()).fit(GOOD, memory_budget=10**9)


def test_a_rate_that_the_held_out_images_cannot_promise_is_refused_first() -> None:
    tiny.extracted.clear()
    with pytest.raises(
        pp.PatchcoreError, match="needs at least 19 good images that the bank does not know, and there are 10"
    ):
        tiny.detector().fit(GOOD, memory_budget=SMALL, false_alarm_rate=0.05)
    assert sum(tiny.extracted) == 1
    assert tiny.detector().fit(GOOD, memory_budget=EVERY, false_alarm_rate=0.05).calibration.rate == 0.05


def test_which_learner_it_is() -> None:
    """The peak that is measured by the benchmark rests on these."""
    from patchcore_plugin.models.fitting.merge_reduce import learner_within

    parts = tiny.detector()._parts
    first = pp.Patches(patches(tiny.detector(), GOOD[:1]).view(1, 8, 8, -1))
    assert isinstance(learner_within(parts, 100, EVERY, first), Kept)
    assert isinstance(learner_within(parts, 100, SMALL, first), Merged)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write(tmp_path / "images", 40)
    monkeypatch.setattr("patchcore_plugin.cli.options.Host", lambda **_: tiny.host())
    words = ["fit", str(tmp_path / "images"), "--out", str(tmp_path / "m.safetensors"), "--backbone", "tiny"]
    words += ["--set", "preprocessing.size=64,64", "--set", "sampler.ratio=0.3", "--device", "cpu", "--json"]
    codes = []
    for budget in ("0.5MB", "0.05MB", "5"):
        monkeypatch.setattr(sys, "argv", ["patchcore", *words, "--memory-budget", budget])
        with pytest.raises(SystemExit) as done:
            cli.main()
        codes.append(done.value.code)
    assert codes == [0, 1, 2]
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["patches_seen"] == 40 * 256
    assert found["bank_rows"] < 0.3 * 40 * 256
    assert found["radius_is_exact"] is False
    assert "40 images make 10,240 patches, at most " in said.err
    assert "patchcore: 40 images make 10,240 patches of 8 values: a memory budget of 0.1 MB has no room" in said.err
    assert "'5'" in said.err
