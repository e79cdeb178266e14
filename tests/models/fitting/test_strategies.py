"""In-memory and streaming fits, on batches of drawn patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.kernels import device
from patchcore_plugin.models.fitting.hold_out import folds
from patchcore_plugin.models.fitting.strategies import InMemoryFit, StreamingFit
from patchcore_plugin.models.scores import score_patches
from tests.models import tiny
from tests.models.fitting.drawn_batches import DIMS, batch, draw


def in_memory(count: int, *, seed: int = 0, **changes: Any) -> InMemoryFit:
    return InMemoryFit(tiny.pipeline(**changes), count, seed)


def streaming(count: int, known: pp.MemoryBank | None = None) -> StreamingFit:
    scorer = tiny.host().create("scorer", "gaussian")
    assert isinstance(scorer, pp.StreamingScorer)
    return StreamingFit(scorer, count, known)


def rows(patches: pp.Patches) -> torch.Tensor:
    return patches.grid.flatten(0, 2)


# In memory


def test_in_memory_scores_each_image_by_a_bank_of_the_other_folds() -> None:
    """With every patch in the bank, a score is the largest distance to a patch of another fold."""
    patches = draw(9)
    fit = in_memory(9, seed=2, sampler="all", scorer={"reweight": False})
    for low in (0, 4, 8):
        fit.add(batch(patches, range(low, min(low + 4, 9))))
    result = fit.finish()
    assert sorted(result.scores) == list(range(9))
    for fold in folds(9, 2):
        others = [index for index in range(9) if index not in fold]
        for index in fold.tolist():
            expected = tiny.distances(rows(batch(patches, [index]).patches), rows(batch(patches, others).patches))  # type: ignore[arg-type]
            assert result.scores[index].score == pytest.approx(float(expected.max()), rel=1e-5)
    assert result.state.bank.vectors.equal(rows(patches))
    assert result.state.radius_curve == [(54, 0.0)]


def test_in_memory_numbers_images_in_the_order_of_adding() -> None:
    """Scores carry the number that was given; the origin counts readable images."""
    fit = in_memory(3, sampler="all")
    fit.add(batch(draw(6), [1, 3, 5]))
    result = fit.finish()
    assert sorted(result.scores) == [1, 3, 5]
    assert result.state.bank.origin[:, 0].unique().tolist() == [0, 1, 2]
    assert result.state.bank.seen == 18


def test_in_memory_leaves_the_patches_in_place() -> None:
    """Cross-fitting moves images of a fold to the end, and back."""
    patches = draw(12)
    fit = in_memory(12, sampler={"count": 7})
    fit.add(batch(patches, range(12)))
    bank = fit.finish().state.bank
    for row, (image, y, x) in zip(bank.vectors, bank.origin.tolist(), strict=True):
        assert torch.equal(row, patches.grid[image, y, x])
    assert bank.descriptors is not None
    assert torch.equal(bank.descriptors, patches.descriptors)  # type: ignore[arg-type]


def test_in_memory_radius_curve_ends_at_the_radius_of_the_bank() -> None:
    patches = draw(12)
    fit = in_memory(12, sampler={"count": 20})
    fit.add(batch(patches, range(12)))
    state = fit.finish().state
    rows_of_curve, radii = zip(*state.radius_curve, strict=True)
    assert rows_of_curve[-1] == 20
    assert list(radii) == sorted(radii, reverse=True)
    assert state.covering_radius == pytest.approx(float(tiny.distances(rows(patches), state.bank.vectors).max()))


@pytest.mark.parametrize(("count", "scored"), [(1, 0), (2, 2), (30, 30)])
def test_in_memory_scores_all_images_but_a_single_one(count: int, scored: int) -> None:
    fit = in_memory(count)
    assert (fit.scored_images(), list(fit.held_out(0))) == (scored, [])
    fit.add(batch(draw(count), range(count)))
    assert len(fit.finish().scores) == scored


def test_in_memory_checks_memory_with_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available", lambda device: 1000)
    with pytest.raises(pp.PatchcoreError, match="600 patches of 4 values"):
        in_memory(100).add(batch(draw(2), [0, 1]))


def test_in_memory_reports_stages_of_the_selection() -> None:
    stages: list[str] = []
    fit = InMemoryFit(tiny.pipeline(), 10, 0, lambda stage, done, total: stages.append(stage))
    fit.add(batch(draw(10), range(10)))
    fit.finish()
    assert len(set(stages)) == 6  # five folds and the final selection


# Streaming


def test_streaming_scores_held_out_images_before_it_adds_them() -> None:
    patches = draw(12)
    fit = streaming(12)
    held_out = list(fit.held_out(0))
    assert fit.scored_images() == len(held_out) == 2
    others = [index for index in range(12) if index not in held_out]
    reference = streaming(12)
    reference.add(batch(patches, others))
    expected = score_patches(reference.finish().state.scorer, batch(patches, held_out).patches)  # type: ignore[arg-type]
    for index in others:
        fit.add(batch(patches, [index]))
    fit.add(batch(patches, held_out, held_out=True))
    result = fit.finish()
    assert sorted(result.scores) == sorted(held_out)
    for index, scores in zip(held_out, expected, strict=True):
        assert result.scores[index].score == pytest.approx(scores.score, rel=1e-4)


def test_streaming_bank_has_no_rows_but_counts_patches() -> None:
    fit = streaming(5)
    fit.add(batch(draw(5), range(5)))
    state = fit.finish().state
    assert (tuple(state.bank.vectors.shape), state.bank.seen, state.covering_radius) == ((0, DIMS), 30, None)


def test_streaming_continues_a_fitted_scorer() -> None:
    patches = draw(12)
    first, whole = streaming(8), streaming(12)
    first.add(batch(patches, range(8)))
    whole.add(batch(patches, range(12)))
    state = first.finish().state
    scorer = tiny.host().create("scorer", "gaussian")
    assert isinstance(scorer, pp.StreamingScorer)
    scorer.restore(state.bank, state.scorer.state())
    more = StreamingFit(scorer, 4, bank=state.bank)
    assert list(more.held_out(0)) == [0, 1, 2, 3]
    expected = score_patches(state.scorer, batch(patches, range(8, 12)).patches)  # type: ignore[arg-type]
    more.add(batch(pp.Patches(patches.grid[8:], patches.descriptors[8:]), range(4), held_out=True))  # type: ignore[index]
    result = more.finish()
    assert [result.scores[index].score for index in range(4)] == pytest.approx([each.score for each in expected])
    assert result.state.bank.seen == 72
    test = draw(3, seed=9)
    after, of_all = (score_patches(each.scorer, test) for each in (result.state, whole.finish().state))
    assert [each.score for each in after] == pytest.approx([each.score for each in of_all], rel=1e-3)


@pytest.mark.parametrize("fit", [in_memory(3), streaming(3)], ids=["in memory", "streaming"])
def test_a_fit_without_images_fails(fit: InMemoryFit | StreamingFit) -> None:
    with pytest.raises(pp.ImageError, match="no readable image"):
        fit.finish()
