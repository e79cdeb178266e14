"""Checks of what a sampler does."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from patchcore_plugin.plugins.protocols import Reduction

from . import common
from .subject import Subject
from .tensors import describe, identical, seeded


def example(it: Subject) -> list[Tensor]:
    """Return 90 rows of 8 values in three clusters, the last ten of them copies of the first."""
    rows = seeded(80, 8, device=it.device) + torch.arange(80, device=it.device)[:, None] % 3 * 10
    return [torch.cat([rows, rows[:10]])]


def run(it: Subject, made: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the indices of the rows that stay."""
    (vectors,) = tensors
    index = made(vectors)
    it.expect(
        isinstance(index, Tensor)
        and index.dtype == torch.int64
        and index.ndim == 1
        and index.device.type == vectors.device.type,
        f"indices int64 [M] on {it.device}",
        describe(index),
        "return a tensor such as torch.arange(...) gives",
    )
    rows = len(vectors)
    it.expect(len(index) > 0, f"at least one of {rows} rows", "none", "keep one where the options would keep none")
    low, high = int(index.min()), int(index.max())
    remedy = "return places in the input"
    it.expect(low >= 0 and high < rows, f"indices from 0 to {rows - 1}", f"{low} to {high}", remedy)
    return [index]


def indices_have_the_right_form(it: Subject) -> None:
    """Return int64 [M], at least one index, each within range, on the rows' device."""
    run(it, it.shared, example(it))


def no_row_stays_twice(it: Subject) -> None:
    """Return no index twice, not even where all rows are equal."""
    for vectors in (*example(it), torch.ones(20, 4, device=it.device)):
        (index,) = run(it, it.shared, [vectors])
        repeated = len(index) - len(index.unique())
        remedy = "leave out rows that are chosen already"
        it.expect(repeated == 0, "every row at most once", f"{repeated} of {len(index)} indices repeated", remedy)


def few_rows_work(it: Subject) -> None:
    """Sample from one row, two, and three."""
    for rows in (1, 2, 3):
        run(it, it.shared, [seeded(rows, 8, device=it.device)])


def wrong_vectors_are_refused(it: Subject) -> None:
    """Refuse no rows at all, or a tensor that is not [N, D], with a PatchcoreError."""
    for shape in ((0, 8), (8,), (4, 5, 8)):
        wrong = torch.zeros(shape, device=it.device)
        it.refuses(f"vectors of shape {list(shape)}", functools.partial(it.shared, wrong))


def radii_are_true(it: Subject) -> None:
    """Let `radii_`, if it is there, be float64 [M]: the largest distance to the nearest pick, after each pick."""
    made = it.make()
    (vectors,) = example(it)
    (index,) = run(it, made, [vectors])
    radii = getattr(made, "radii_", None)
    if radii is None:
        return
    it.expect(
        isinstance(radii, Tensor) and radii.dtype == torch.float64 and tuple(radii.shape) == (len(index),),
        f"radii_ to be float64 [{len(index)}], one per index",
        describe(radii),
        "leave None where they are not known",
    )
    points = vectors.double()
    distances = (points[:, None] - points[None, index]).norm(dim=-1)
    truth = distances.cummin(dim=1).values.amax(dim=0)
    wrong = ((radii.to(truth.device) - truth).abs() > 1e-4 * truth.amax()).nonzero().flatten().tolist()
    if wrong:
        raise it.failure(
            f"radii_[{wrong[0]}] to be {float(truth[wrong[0]]):.6g}, the largest distance to the picks so far",
            f"{float(radii[wrong[0]]):.6g}",
            "measure distances, not their squares, in the space of the input; or leave None",
        )


def reductions_keep_to_their_limit(it: Subject) -> None:
    """Keep no more of a bank and new patches than `reduction`, if it is there, allows; no fewer of more seen."""
    made = it.make()
    if not hasattr(made, "reduction"):
        return
    (vectors,) = example(it)
    plain = run(it, made, [vectors])
    kept = {}
    for seen in (len(vectors), 10 * len(vectors)):
        made.reduction = Reduction(rows=30, seen=seen)
        (index,) = run(it, made, [vectors])
        kept[seen] = len(index.unique())
        it.expect(kept[seen] == len(index), "every row at most once", "repeated indices", "choose among the others")
    few, many = kept.values()
    remedy = "let a fraction be one of reduction.seen"
    it.expect(few <= many, f"at least {few} rows where ten times as many patches were seen", many, remedy)
    made.reduction = Reduction(rows=30, seen=10 * len(vectors), limit=5)
    (index,) = run(it, made, [vectors])
    it.expect(len(index) <= 5, "at most 5 rows where limit is 5", len(index), "keep the first few")
    made.reduction = None
    it.expect(
        identical(run(it, made, [vectors]), plain),
        "the same answer as before once reduction is None again",
        "another one",
        "keep nothing between calls",
    )


def progress_is_told_in_order(it: Subject) -> None:
    """Call `progress`, if it is there and set, with what is done, never falling, and the total."""
    made = it.make()
    if not hasattr(made, "progress"):
        return
    told: list[tuple[int, int]] = []
    made.progress = lambda done, total: told.append((done, total))
    run(it, made, example(it))
    done = [each for each, _ in told]
    sound = done == sorted(done) and all(0 <= each <= total for each, total in told)
    it.expect(sound, "progress(done, total) with done rising to at most the total", told, "count what is selected")


CHECKS = (
    *common.CHECKS,
    common.works_at_its_lower_limits,
    indices_have_the_right_form,
    no_row_stays_twice,
    few_rows_work,
    wrong_vectors_are_refused,
    radii_are_true,
    reductions_keep_to_their_limit,
    progress_is_told_in_order,
)
