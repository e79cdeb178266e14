"""Checks of a scorer that can learn from patches as they come; one that cannot passes them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from patchcore_plugin.plugins.protocols import MemoryBank, Patches, StreamingScorer

from .banks import by_image, descriptors, made_bank
from .common import role_module
from .subject import Subject
from .tensors import alike, identical

CUT = 4
"""How many images the first batch has, where there are two; the second has fewer."""


def streaming_learns_what_fit_does(it: Subject) -> None:
    """Learn by `update` and `finish`, where it has them, what `fit` learns from a bank of the same patches."""
    if not _streams(it):
        return
    vectors, origin, *_ = role_module(it.role).example(it)
    fitted, streamed = it.make(), it.make()
    fitted.fit(made_bank(vectors, origin))
    _update(it, streamed, slice(CUT))
    _update(it, streamed, slice(CUT, None))
    streamed.finish()
    it.expect(
        alike(_scores(it, streamed), _scores(it, fitted, len(vectors))),
        "the scores of fit from a scorer that learned from two batches",
        "other scores",
        "learn from every batch, whatever its size",
    )


def only_finish_changes_scores(it: Subject) -> None:
    """Score as before after `update`, where it has that, and by all that was learned after the next `finish`."""
    if not _streams(it):
        return
    made, whole = it.make(), it.make()
    _update(it, whole, slice(None))
    whole.finish()
    _update(it, made, slice(CUT))
    made.finish()
    before = _scores(it, made)
    _update(it, made, slice(CUT, None))
    it.expect(
        _same(it, _scores(it, made), before),
        "the same scores after update as before it",
        "other scores",
        "keep what is learned apart from what scores, until finish",
    )
    made.finish()
    it.expect(
        alike(_scores(it, made), _scores(it, whole)),
        "the scores of all images after a second finish",
        "other scores",
        "let update go on from what it knew before finish",
    )


def what_was_streamed_is_restored(it: Subject) -> None:
    """Give equal scores, where it has `update`, after its `state` is restored with a bank that has no rows."""
    if not _streams(it):
        return
    vectors, origin, *_ = role_module(it.role).example(it)
    streamed, restored = it.make(), it.make()
    _update(it, streamed, slice(None))
    streamed.finish()
    restored.restore(MemoryBank(vectors[:0], origin[:0], len(vectors)), streamed.state())
    expected, got = _scores(it, streamed), _scores(it, restored)
    it.expect(
        _same(it, got, expected),
        "equal scores from a scorer that is restored without a bank",
        "different ones",
        "put all that was learned into state(): there is no bank beside it",
    )


def _streams(it: Subject) -> bool:
    has = [name for name in ("update", "finish") if hasattr(it.shared, name)]
    it.expect(len(has) != 1, "both update and finish, or neither", f"{''.join(has)} alone", "add the other one")
    return isinstance(it.shared, StreamingScorer)


def _update(it: Subject, made: Any, images: slice) -> None:
    vectors, *_ = role_module(it.role).example(it)
    made.update(Patches(by_image(vectors)[images], descriptors(it.device)[images]))


def _same(it: Subject, got: list[Tensor], expected: list[Tensor]) -> bool:
    return identical(got, expected) if it.device == "cpu" else alike(got, expected)


def _scores(it: Subject, made: Any, rows: int = 0) -> list[Tensor]:
    """Return image scores and map by a scorer whose bank has so many rows that `nearest` may name."""
    *_, grid, image = role_module(it.role).example(it)
    return [
        each for each in role_module(it.role).score(it, made, Patches(grid, image), rows) if each.is_floating_point()
    ]


CHECKS = (streaming_learns_what_fit_does, only_finish_changes_scores, what_was_streamed_is_restored)
