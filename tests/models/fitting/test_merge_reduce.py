"""Merge-and-reduce: the bound of the covering radius, rows within a plan, and the order of images."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.models.fitting import memory
from patchcore_plugin.models.fitting.buffer import PatchBuffer
from patchcore_plugin.models.fitting.merge_reduce import MergeReduceFit, choose_rows, require_reducible
from patchcore_plugin.models.fitting.strategies import InMemoryFit
from patchcore_plugin.models.scores import score_patches
from patchcore_plugin.models.state import FittedState
from tests.models import tiny
from tests.models.fitting.drawn_batches import batch, draw

PATCHES = 6
"""Patches of a drawn image."""


def plan(rows: int, images: int) -> memory.BudgetPlan:
    return memory.BudgetPlan(budget=10**6, rows=rows, bank=rows // 2, patches=images * PATCHES, full=1e9)


def fit_in_memory(patches: pp.Patches, **changes: Any) -> FittedState:
    fit = InMemoryFit(tiny.pipeline(**changes), len(patches.grid), 0)
    fit.add(batch(patches, range(len(patches.grid))))
    return fit.finish().state


def radius_of(patches: pp.Patches, state: FittedState) -> float:
    return float(tiny.distances(patches.grid.flatten(0, 2), state.bank.vectors).max())


# The choice of rows


def test_the_bound_counts_how_far_rows_of_the_bank_move() -> None:
    """Patches near a row of the bank that leaves are near another row, by the triangle inequality."""
    pipeline = tiny.pipeline(sampler={"name": "greedy-coreset", "count": 2})
    bank = pp.MemoryBank(torch.tensor([[0.0], [1.0]]), torch.zeros(2, 3, dtype=torch.int64), seen=39)
    new = pp.Patches(torch.tensor([10.0]).view(1, 1, 1, 1))
    buffer = PatchBuffer(3, new, bank=bank, images=3)
    buffer.add(new)
    index, radius = choose_rows(pipeline, pipeline.new_sampler(), buffer, radius=0.5, limit=2)
    assert len(index) == 2
    assert radius in ((9.0,) if set(index.tolist()) == {0, 1} else (1.0, 1.5))


def test_the_bound_stays_where_the_bank_stays() -> None:
    pipeline = tiny.pipeline(sampler={"name": "greedy-coreset", "ratio": 0.01})
    bank = pp.MemoryBank(torch.tensor([[0.0], [1.0]]), torch.zeros(2, 3, dtype=torch.int64), seen=299)
    new = pp.Patches(torch.tensor([10.0]).view(1, 1, 1, 1))
    buffer = PatchBuffer(3, new, bank=bank, images=3)
    buffer.add(new)
    index, radius = choose_rows(pipeline, pipeline.new_sampler(), buffer, radius=0.5)
    assert index.tolist() == [0, 1, 2]
    assert radius == 0.5


def test_a_sampler_that_keeps_all_has_radius_zero() -> None:
    pipeline = tiny.pipeline(sampler="all")
    buffer = PatchBuffer(12, draw(2))
    buffer.add(draw(2))
    index, radius = choose_rows(pipeline, pipeline.new_sampler(), buffer, radius=0.0)
    assert (index.tolist(), radius) == (list(range(12)), 0.0)


def test_random_rows_stand_for_all_images_alike() -> None:
    """Patches arrive in four parts; each part has the same number of rows at the end, on average."""
    host, counts = pp.Host(entry_points=False), torch.zeros(4)
    for seed in range(300):
        sampler: Any = host.create("sampler", "random", ratio=0.1, seed=seed)
        bank = torch.zeros(0, 2)
        for part in range(4):
            new = torch.stack([torch.full((100,), float(part)), torch.arange(100.0)], dim=1)
            merged = torch.cat([bank, new])
            sampler.reduction = pp.Reduction(rows=len(bank), seen=100 * (part + 1))
            bank = merged[sampler(merged)]
            assert len(bank) == 10 * (part + 1)
            assert len(bank.unique(dim=0)) == len(bank)
        counts += bank[:, 0].long().bincount(minlength=4)
    assert counts.div(300).tolist() == pytest.approx([10.0] * 4, abs=0.5)


def test_more_rows_than_the_limit_are_refused() -> None:
    sampler: Any = pp.Host(entry_points=False).create("sampler", "all")
    with pytest.raises(pp.TensorError, match="at most 3 indices, got 9"):
        tiny.pipeline().select(sampler, torch.randn(9, 2), pp.Reduction(rows=0, seen=9, limit=3))


def test_a_sampler_without_reduction_is_refused() -> None:
    class Plugin:
        @staticmethod
        @pp.hookimpl
        def patchcore_samplers() -> list[pp.SamplerSpec]:
            def create(config: Any) -> Any:
                return lambda vectors: torch.arange(0, len(vectors), 10)

            return [pp.SamplerSpec(name="every", config=tiny.Config, create=create, summary="every tenth")]

    host = tiny.host(every=Plugin())
    detector = pp.Detector(tiny.recipe(sampler="every"), device="cpu", host=host)
    with pytest.raises(pp.OptionError, match=re.escape("sampler 'every'")) as caught:
        require_reducible(detector.member.pipeline, "the model cannot be updated")
    assert "the model cannot be updated" in str(caught.value)
    require_reducible(tiny.pipeline(sampler="all"), "it can")


# A fit within a plan


@pytest.mark.parametrize("sampler", [{"ratio": 0.1}, {"ratio": 0.5}, {"name": "random", "ratio": 0.2}])
def test_rows_stay_within_the_plan_and_the_radius_within_its_bound(sampler: dict[str, Any]) -> None:
    patches = draw(40)
    fit = MergeReduceFit(tiny.pipeline(sampler=sampler), 40, plan=plan(90, 40))
    held_out = list(fit.held_out(0))
    assert fit.scored_images() == len(held_out) == 4
    others = [index for index in range(40) if index not in held_out]
    for low in range(0, len(others), 4):
        fit.add(batch(patches, others[low : low + 4]))
        assert fit._buffer is not None
        assert fit._buffer.rows <= 90
    fit.add(batch(patches, held_out, held_out=True))
    result = fit.finish()
    state = result.state
    assert state.bank.seen == 240
    assert len(state.bank.vectors) <= 45
    assert state.covering_radius is not None
    assert radius_of(patches, state) <= state.covering_radius * (1 + 1e-6)
    assert not state.radius_is_exact
    assert sorted(result.scores) == sorted(held_out)


def test_one_reduction_has_the_radius_of_a_fit_in_memory() -> None:
    patches = draw(20)
    fit = MergeReduceFit(tiny.pipeline(sampler={"count": 12}), 20, plan=plan(1000, 20))
    fit.add(batch(patches, range(20)))
    state = fit.finish().state
    in_memory = fit_in_memory(patches, sampler={"count": 12})
    assert state.radius_is_exact
    assert state.covering_radius == pytest.approx(in_memory.covering_radius)
    assert torch.equal(state.bank.vectors, in_memory.bank.vectors)


def test_images_are_numbered_in_the_order_given() -> None:
    """Held-out images are read last; the origin of rows and the descriptors follow the order of numbers."""
    patches = draw(20)
    fit = MergeReduceFit(tiny.pipeline(sampler={"ratio": 0.5}), 20, plan=plan(100, 20))
    held_out = list(fit.held_out(0))
    others = [index for index in range(20) if index not in held_out]
    for low in range(0, len(others), 3):
        fit.add(batch(patches, others[low : low + 3]))
    fit.add(batch(patches, held_out, held_out=True))
    bank = fit.finish().state.bank
    assert len(bank.vectors) > 40
    for row, (image, y, x) in zip(bank.vectors, bank.origin.tolist(), strict=True):
        assert torch.equal(row, patches.grid[image, y, x])
    assert bank.descriptors is not None
    assert torch.equal(bank.descriptors, patches.descriptors)  # type: ignore[arg-type]


def test_held_out_images_are_scored_before_they_are_added() -> None:
    patches = draw(20)
    pipeline = tiny.pipeline(sampler={"count": 30})
    fit = MergeReduceFit(pipeline, 20, plan=plan(1000, 20))
    held_out = list(fit.held_out(0))
    others = [index for index in range(20) if index not in held_out]
    fit.add(batch(patches, others))
    fit.add(batch(patches, held_out, held_out=True))
    scorer = fit_in_memory(batch(patches, others).patches, sampler={"count": 30}).scorer  # type: ignore[arg-type]
    expected = score_patches(scorer, batch(patches, held_out).patches)  # type: ignore[arg-type]
    scores = fit.finish().scores
    for index, each in zip(held_out, expected, strict=True):
        assert scores[index].score == pytest.approx(each.score, rel=1e-5)


# An update


def test_an_update_starts_from_the_bank_and_leaves_the_state_as_it_was() -> None:
    patches, new = draw(20), draw(3, seed=5)
    state = fit_in_memory(patches, sampler={"ratio": 0.1})
    before = state.bank.vectors.clone()
    fit = MergeReduceFit(tiny.pipeline(sampler={"ratio": 0.1}), 3, state=state, images=20)
    assert list(fit.held_out(0)) == [0, 1, 2]
    fit.add(batch(new, range(3), held_out=True))
    result = fit.finish()
    expected = score_patches(state.scorer, new)
    assert [result.scores[index].score for index in range(3)] == pytest.approx([each.score for each in expected])
    bank = result.state.bank
    assert torch.equal(bank.vectors[: len(before)], before)
    assert torch.equal(state.bank.vectors, before)
    assert (bank.seen, len(bank.vectors)) == (138, 14)
    assert set(bank.origin[len(before) :, 0].tolist()) <= {20, 21, 22}
    assert bank.descriptors is not None
    assert len(bank.descriptors) == 23


def test_a_fit_without_images_fails() -> None:
    with pytest.raises(pp.ImageError, match="no readable image"):
        MergeReduceFit(tiny.pipeline(), 3).finish()


def test_the_stages_of_a_plan_are_numbered() -> None:
    stages: list[str] = []
    pipeline = tiny.pipeline()
    fit = MergeReduceFit(pipeline, 40, plan=plan(90, 40), progress=lambda stage, done, total: stages.append(stage))
    for low in range(0, 40, 4):
        fit.add(batch(draw(40), range(low, low + 4)))
    fit.finish()
    assert len(set(stages)) > 2
    lines = MergeReduceFit(pipeline, 40, plan=plan(90, 40))
    lines.add(batch(draw(4), range(4)))
    assert "at most 90 " in lines.describe(seconds=3.0)
