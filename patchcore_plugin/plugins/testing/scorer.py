"""Checks of scorers.

The bank has the patches of several images by position, their origin, and image descriptors. A scorer that needs more
(every position of every image, many rows) raises a TensorError. A scorer of whole images that refuses patches by
position is checked with 1 x 1 patches.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.plugins.protocols import Patches, Scores

from . import common, streaming
from .check import Subject
from .examples import DIMS, bank_of, by_image, descriptors, example_bank
from .tensors import are_close, are_identical, describe, expect_finite

FAR = 30.0
"""Added to every value of a normal image to get an anomalous one; values have a standard deviation of 1."""


def example(subject: Subject) -> list[Tensor]:
    """Return vectors and origin of a bank, and grid and descriptors of two normal and two anomalous images."""
    vectors, origin = example_bank(subject)
    grid, image = by_image(vectors)[:2], descriptors(subject.device)[:2]
    return [vectors, origin, torch.cat([grid, grid + FAR]), torch.cat([image, image + FAR])]


def run(subject: Subject, component: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Fit to the bank and return the scores of the images."""
    vectors, origin, grid, image = tensors
    component.fit(bank_of(vectors, origin))
    return score(subject, component, Patches(grid, image), len(vectors))


def image(tensors: Sequence[Tensor], number: int) -> list[Tensor]:
    """Return the bank and one image."""
    vectors, origin, grid, image = tensors
    return [vectors, origin, grid[number, None], image[number, None]]


def score(subject: Subject, component: Any, patches: Patches, rows: int) -> list[Tensor]:
    """Return image scores, then the map and the nearest rows if there are any.

    Parameters
    ----------
    subject
        The component to check.
    component
        The fitted scorer.
    patches
        Patches of one or more images.
    rows
        Number of rows of the memory bank.
    """
    scores = component(patches)
    subject.expect(isinstance(scores, Scores), "Scores", describe(scores), "return Scores(image=..., map=...)")
    batch, height, width, _ = patches.grid.shape
    expect_finite(subject, "Scores.image", scores.image, "[B]", (batch,))
    tensors = [scores.image]
    if scores.map is not None:
        expect_finite(subject, "Scores.map", scores.map, "[B, h, w]", (batch, height, width))
        tensors.append(scores.map)
    for tensor in tensors:
        subject.expect(tensor.dtype == torch.float32, "scores in float32", describe(tensor), "convert by .float()")
    if scores.nearest is not None:
        row = scores.nearest
        subject.expect(rows > 0, "Scores.nearest to be None for a bank without rows", describe(row), "return None")
        subject.expect(
            row.dtype == torch.int64
            and tuple(row.shape) == (batch, height, width)
            and int(row.min()) >= 0
            and int(row.max()) < rows,
            f"Scores.nearest to be int64 [{batch}, {height}, {width}], rows of the bank from 0 to {rows - 1}",
            f"{describe(row)}, from {int(row.min())} to {int(row.max())}",
            "return row numbers of the bank, or None",
        )
        tensors.append(row)
    return tensors


def scores_have_the_right_form(subject: Subject) -> None:
    """Return finite float32 Scores; map and nearest on the grid of the patches, or None."""
    run(subject, subject.instance, example(subject))


def anomalous_images_score_higher(subject: Subject) -> None:
    """Return a higher score and map for an image far from the bank than for one in the bank."""
    image, *maps = (tensor for tensor in run(subject, subject.instance, example(subject)) if tensor.is_floating_point())
    for name, values in (("image score", image), *(("mean of the map", grid.mean(dim=(1, 2))) for grid in maps)):
        normal, anomalous = float(values[:2].max()), float(values[2:].min())
        subject.expect(
            anomalous > normal,
            f"a larger {name} far from the bank than in it",
            f"{anomalous:.4g} far away and {normal:.4g} in the bank",
            "return a distance: larger is more anomalous",
        )


def small_banks_work(subject: Subject) -> None:
    """Accept a bank of every third patch, of two rows, and of one, or refuse it with a PatchcoreError."""
    vectors, origin, grid, image = example(subject)
    for rows in (slice(None, None, 3), slice(2), slice(1)):
        try:
            run(subject, subject.create(), [vectors[rows], origin[rows], grid, image])
        except PatchcoreError:
            continue


def state_is_complete(subject: Subject) -> None:
    """Give equal scores after `state` is stored in a model file and restored."""
    vectors, origin, grid, image = example(subject)
    fitted, restored = subject.create(), subject.create()
    expected = run(subject, fitted, [vectors, origin, grid, image])
    state = fitted.state()
    remedy = "return a dict of tensors, {} if the bank is the whole state"
    subject.expect(isinstance(state, Mapping), "state() to be a dict", type(state).__name__, remedy)
    for name, value in state.items():
        valid = isinstance(name, str) and isinstance(value, Tensor)
        subject.expect(valid, "state() to hold tensors by name", f"{name!r}: {describe(value)}", remedy)
        finite = not value.is_floating_point() or bool(torch.isfinite(value).all())
        subject.expect(finite, f"state()[{name!r}] to be finite", "NaN or infinity", "find their cause")
    stored = load(save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}))
    restored.restore(bank_of(vectors, origin), {name: value.to(subject.device) for name, value in stored.items()})
    actual = score(subject, restored, Patches(grid, image), len(vectors))
    subject.expect(
        are_identical(actual, expected) if subject.device == "cpu" else are_close(actual[:1], expected[:1]),
        "equal scores of a restored scorer",
        "different ones",
        "return everything that fit computed from state(), and restore it in restore()",
    )


def second_fit_replaces_first(subject: Subject) -> None:
    """Keep nothing of the first bank after a second `fit`."""
    vectors, origin, grid, image = example(subject)
    first, second = [vectors + FAR, origin, grid, image], [vectors, origin, grid, image]
    used, fresh = subject.create(), subject.create()
    run(subject, used, first)
    equal = are_close(run(subject, used, second)[:1], run(subject, fresh, second)[:1])
    subject.expect(equal, "the scores of a new scorer after a second fit", "other scores", "reset all state in fit")


def scoring_needs_fit(subject: Subject) -> None:
    """Refuse to score before `fit` with a PatchcoreError."""
    *_, grid, image = example(subject)
    call = functools.partial(subject.create(), Patches(grid, image))
    subject.expect_refusal("scoring before fit or restore", call)


def wrong_patches_are_refused(subject: Subject) -> None:
    """Refuse patches whose length differs from that of the bank with a PatchcoreError."""
    vectors, origin, grid, image = example(subject)
    scorer = subject.create()
    scorer.fit(bank_of(vectors, origin))
    for dims, wrong in ((DIMS - 1, grid[..., :-1]), (1, grid[..., :1])):
        case = f"patches of {dims} values with a bank of {DIMS}"
        subject.expect_refusal(case, functools.partial(scorer, Patches(wrong, image)))


CHECKS = (
    *common.CHECKS,
    common.images_are_independent,
    common.lower_limits_work,
    common.capabilities_are_true,
    scores_have_the_right_form,
    anomalous_images_score_higher,
    small_banks_work,
    state_is_complete,
    second_fit_replaces_first,
    scoring_needs_fit,
    wrong_patches_are_refused,
    *streaming.CHECKS,
)
