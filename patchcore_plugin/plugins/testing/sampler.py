"""Checks of samplers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from patchcore_plugin.plugins.protocols import Reduction

from . import common
from .check import Subject
from .tensors import are_identical, describe, random_tensor


def example(subject: Subject) -> list[Tensor]:
    """Return 90 rows of 8 values in three clusters; the last ten are copies of the first ten."""
    rows = random_tensor(80, 8, device=subject.device) + torch.arange(80, device=subject.device)[:, None] % 3 * 10
    return [torch.cat([rows, rows[:10]])]


def run(subject: Subject, component: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the indices of the selected rows."""
    (vectors,) = tensors
    index = component(vectors)
    subject.expect(
        isinstance(index, Tensor)
        and index.dtype == torch.int64
        and index.ndim == 1
        and index.device.type == vectors.device.type,
        f"indices int64 [M] on {subject.device}",
        describe(index),
        "return a tensor such as that of torch.arange(...)",
    )
    rows = len(vectors)
    subject.expect(len(index) > 0, f"at least one of {rows} rows", "none", "select one if the options ask for none")
    low, high = int(index.min()), int(index.max())
    remedy = "return row numbers of the input"
    subject.expect(low >= 0 and high < rows, f"indices from 0 to {rows - 1}", f"{low} to {high}", remedy)
    return [index]


def indices_have_the_right_form(subject: Subject) -> None:
    """Return int64 [M], at least one index, all within range, on the device of the rows."""
    run(subject, subject.instance, example(subject))


def no_row_is_repeated(subject: Subject) -> None:
    """Return no index twice, even if all rows are equal."""
    for vectors in (*example(subject), torch.ones(20, 4, device=subject.device)):
        (index,) = run(subject, subject.instance, [vectors])
        repeated = len(index) - len(index.unique())
        remedy = "skip rows that are selected already"
        subject.expect(repeated == 0, "every row at most once", f"{repeated} of {len(index)} indices repeated", remedy)


def few_rows_work(subject: Subject) -> None:
    """Select from one row, two, and three."""
    for rows in (1, 2, 3):
        run(subject, subject.instance, [random_tensor(rows, 8, device=subject.device)])


def wrong_vectors_are_refused(subject: Subject) -> None:
    """Refuse an empty tensor, or one that is not [N, D], with a PatchcoreError."""
    for shape in ((0, 8), (8,), (4, 5, 8)):
        wrong = torch.zeros(shape, device=subject.device)
        subject.expect_refusal(f"vectors of shape {list(shape)}", functools.partial(subject.instance, wrong))


def radii_are_correct(subject: Subject) -> None:
    """Set `radii_`, unless it is missing or None, to the covering radius after each pick, float64 [M]."""
    sampler = subject.create()
    (vectors,) = example(subject)
    (index,) = run(subject, sampler, [vectors])
    radii = getattr(sampler, "radii_", None)
    if radii is None:
        return
    subject.expect(
        isinstance(radii, Tensor) and radii.dtype == torch.float64 and tuple(radii.shape) == (len(index),),
        f"radii_ to be float64 [{len(index)}], one per index",
        describe(radii),
        "leave None if they are unknown",
    )
    points = vectors.double()
    distances = (points[:, None] - points[None, index]).norm(dim=-1)
    truth = distances.cummin(dim=1).values.amax(dim=0)
    wrong = ((radii.to(truth.device) - truth).abs() > 1e-4 * truth.amax()).nonzero().flatten().tolist()
    if wrong:
        raise subject.failure(
            f"radii_[{wrong[0]}] to be {float(truth[wrong[0]]):.6g}, the largest distance to the picks so far",
            f"{float(radii[wrong[0]]):.6g}",
            "use distances, not their squares, in the space of the input; or leave None",
        )


def keeping_all_is_true(subject: Subject) -> None:
    """Return every row if `keeps_all` is true."""
    if getattr(subject.instance, "keeps_all", False):
        (vectors,) = example(subject)
        (index,) = run(subject, subject.instance, [vectors])
        kept = len(index.unique())
        subject.expect(kept == len(vectors), f"all {len(vectors)} rows, as keeps_all states", kept, "remove keeps_all")


def reductions_respect_limit(subject: Subject) -> None:
    """Select at most `limit` rows of a bank and new patches, if it has `reduction`, and no fewer if more were seen."""
    sampler = subject.create()
    if not hasattr(sampler, "reduction"):
        return
    (vectors,) = example(subject)
    plain = run(subject, sampler, [vectors])
    counts = {}
    for seen in (len(vectors), 10 * len(vectors)):
        sampler.reduction = Reduction(rows=30, seen=seen)
        (index,) = run(subject, sampler, [vectors])
        counts[seen] = len(index.unique())
        subject.expect(
            counts[seen] == len(index), "every row at most once", "repeated indices", "skip rows that are selected"
        )
    few, many = counts.values()
    remedy = "use a fraction of reduction.seen"
    subject.expect(few <= many, f"at least {few} rows after ten times as many patches", many, remedy)
    sampler.reduction = Reduction(rows=30, seen=10 * len(vectors), limit=5)
    (index,) = run(subject, sampler, [vectors])
    subject.expect(len(index) <= 5, "at most 5 rows with limit 5", len(index), "return the first 5")
    sampler.reduction = None
    subject.expect(
        are_identical(run(subject, sampler, [vectors]), plain),
        "the first result again after reduction is set to None",
        "another one",
        "keep no state between calls",
    )


def progress_rises(subject: Subject) -> None:
    """Call `progress`, if it is there and set, with rising numbers of selected rows and with the total."""
    sampler = subject.create()
    if not hasattr(sampler, "progress"):
        return
    calls: list[tuple[int, int]] = []
    sampler.progress = lambda done, total: calls.append((done, total))
    run(subject, sampler, example(subject))
    done = [count for count, _ in calls]
    valid = done == sorted(done) and all(0 <= count <= total for count, total in calls)
    subject.expect(valid, "progress(done, total) with done rising to at most total", calls, "count the selected rows")


CHECKS = (
    *common.CHECKS,
    common.lower_limits_work,
    common.capabilities_are_true,
    indices_have_the_right_form,
    no_row_is_repeated,
    few_rows_work,
    wrong_vectors_are_refused,
    radii_are_correct,
    keeping_all_is_true,
    reductions_respect_limit,
    progress_rises,
)
