"""Checks of what a scorer does.

Its bank has what a fit gives it: the patches of several images by position, their origin, all of them or every
third, and descriptors of the images. A scorer that needs more than a bank has (every position of every image, many
rows) raises a TensorError; so does one for whole images where patches have positions: it gets 1 x 1 patches then.
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
from .banks import DIMS, by_image, descriptors, example_bank, made_bank
from .subject import Subject
from .tensors import alike, describe, identical, is_finite

FAR = 30.0
"""What is added to every value of a normal image to make a strange one; the values have standard deviation 1."""


def example(it: Subject) -> list[Tensor]:
    """Return vectors and origin of a bank, grid and descriptors of four images: two normal, two strange ones."""
    vectors, origin = example_bank(it)
    grid, image = by_image(vectors)[:2], descriptors(it.device)[:2]
    return [vectors, origin, torch.cat([grid, grid + FAR]), torch.cat([image, image + FAR])]


def run(it: Subject, made: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Fit on the bank and return what is said of the images."""
    vectors, origin, grid, image = tensors
    made.fit(made_bank(vectors, origin))
    return score(it, made, Patches(grid, image), len(vectors))


def image(tensors: Sequence[Tensor], number: int) -> list[Tensor]:
    """Return the bank and one image."""
    vectors, origin, grid, image = tensors
    return [vectors, origin, grid[number, None], image[number, None]]


def score(it: Subject, made: Any, patches: Patches, rows: int) -> list[Tensor]:
    """Return image scores, then map and nearest where there are any."""
    scores = made(patches)
    it.expect(isinstance(scores, Scores), "Scores", describe(scores), "return Scores(image=..., map=...)")
    batch, height, width, _ = patches.grid.shape
    is_finite(it, "Scores.image", scores.image, "[B]", (batch,))
    given = [scores.image]
    if scores.map is not None:
        is_finite(it, "Scores.map", scores.map, "[B, h, w]", (batch, height, width))
        given.append(scores.map)
    for each in given:
        it.expect(each.dtype == torch.float32, "scores in float32", describe(each), "convert them by .float()")
    if scores.nearest is not None:
        row = scores.nearest
        it.expect(rows > 0, "Scores.nearest to be None where the bank has no rows", describe(row), "return None there")
        it.expect(
            row.dtype == torch.int64
            and tuple(row.shape) == (batch, height, width)
            and int(row.min()) >= 0
            and int(row.max()) < rows,
            f"Scores.nearest to be int64 [{batch}, {height}, {width}], rows of the bank from 0 to {rows - 1}",
            f"{describe(row)}, from {int(row.min())} to {int(row.max())}",
            "return row numbers of the bank, or None",
        )
        given.append(row)
    return given


def scores_have_the_right_form(it: Subject) -> None:
    """Return finite float32 Scores; map and nearest on the patches' grid, or None."""
    run(it, it.shared, example(it))


def strange_images_score_higher(it: Subject) -> None:
    """Give an image far from all of the bank a higher score, and map, than one that is in it."""
    image, *maps = (each for each in run(it, it.shared, example(it)) if each.is_floating_point())
    for what, values in (("image score", image), *(("mean of the map", each.mean(dim=(1, 2))) for each in maps)):
        normal, strange = float(values[:2].max()), float(values[2:].min())
        it.expect(
            strange > normal,
            f"a larger {what} far from the bank than in it",
            f"{strange:.4g} far away and {normal:.4g} in the bank",
            "return a distance: larger is more anomalous",
        )


def small_banks_work(it: Subject) -> None:
    """Take a bank of every third patch, of two rows, or of one, or refuse it with a PatchcoreError."""
    vectors, origin, grid, image = example(it)
    for rows in (slice(None, None, 3), slice(2), slice(1)):
        try:
            run(it, it.make(), [vectors[rows], origin[rows], grid, image])
        except PatchcoreError:
            continue


def state_restores_it(it: Subject) -> None:
    """Give equal scores after a model file has held the `state` that is restored."""
    vectors, origin, grid, image = example(it)
    fitted, restored = it.make(), it.make()
    expected = run(it, fitted, [vectors, origin, grid, image])
    state = fitted.state()
    remedy = "return a dict of tensors, {} where the bank is all there is"
    it.expect(isinstance(state, Mapping), "state() to be a dict", type(state).__name__, remedy)
    for name, value in state.items():
        sound = isinstance(name, str) and isinstance(value, Tensor)
        it.expect(sound, "state() to hold tensors by name", f"{name!r}: {describe(value)}", remedy)
        finite = not value.is_floating_point() or bool(torch.isfinite(value).all())
        it.expect(finite, f"state()[{name!r}] to be finite", "NaN or infinity", "find where they come from")
    stored = load(save({name: each.detach().cpu().contiguous().clone() for name, each in state.items()}))
    restored.restore(made_bank(vectors, origin), {name: each.to(it.device) for name, each in stored.items()})
    got = score(it, restored, Patches(grid, image), len(vectors))
    it.expect(
        identical(got, expected) if it.device == "cpu" else alike(got[:1], expected[:1]),
        "equal scores from a scorer that is restored",
        "different ones",
        "put all that fit computed into state(), and take it back in restore()",
    )


def fitting_again_forgets(it: Subject) -> None:
    """Keep nothing of the first bank after a second `fit`."""
    vectors, origin, grid, image = example(it)
    first, second = [vectors + FAR, origin, grid, image], [vectors, origin, grid, image]
    used, fresh = it.make(), it.make()
    run(it, used, first)
    same = alike(run(it, used, second)[:1], run(it, fresh, second)[:1])
    remedy = "set everything anew in fit"
    it.expect(same, "the scores of a new scorer after a second fit", "other scores", remedy)


def scoring_comes_after_fit(it: Subject) -> None:
    """Refuse to score before `fit` with a PatchcoreError."""
    *_, grid, image = example(it)
    it.refuses("scoring before fit or restore", functools.partial(it.make(), Patches(grid, image)))


def wrong_patches_are_refused(it: Subject) -> None:
    """Refuse patches with another number of values than the bank's with a PatchcoreError."""
    vectors, origin, grid, image = example(it)
    made = it.make()
    made.fit(made_bank(vectors, origin))
    for dims, wrong in ((DIMS - 1, grid[..., :-1]), (1, grid[..., :1])):
        what = f"patches of {dims} values beside a bank of {DIMS}"
        it.refuses(what, functools.partial(made, Patches(wrong, image)))


CHECKS = (
    *common.CHECKS,
    common.images_are_independent,
    common.works_at_its_lower_limits,
    scores_have_the_right_form,
    strange_images_score_higher,
    small_banks_work,
    state_restores_it,
    fitting_again_forgets,
    scoring_comes_after_fit,
    wrong_patches_are_refused,
    *streaming.CHECKS,
)
