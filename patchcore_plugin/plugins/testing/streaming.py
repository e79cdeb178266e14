"""Checks of streaming scorers; all other scorers pass them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from patchcore_plugin.plugins.protocols import MemoryBank, Patches, StreamingScorer

from .check import Subject
from .common import role_module
from .examples import bank_of, by_image, descriptors
from .tensors import are_close, are_identical

CUT = 4
"""Number of images in the first of two batches; the second has fewer."""


def streaming_equals_fit(subject: Subject) -> None:
    """Give the scores of `fit` after `update` and `finish`, if it has them, with the same patches."""
    if not _is_streaming(subject):
        return
    vectors, origin, *_ = role_module(subject.role).example(subject)
    whole, streamed = subject.create(), subject.create()
    whole.fit(bank_of(vectors, origin))
    _update(subject, streamed, slice(CUT))
    _update(subject, streamed, slice(CUT, None))
    streamed.finish()
    subject.expect(
        are_close(_scores(subject, streamed), _scores(subject, whole, len(vectors))),
        "the scores of fit after two batches",
        "other scores",
        "add every batch, whatever its size",
    )


def only_finish_changes_scores(subject: Subject) -> None:
    """Keep scores unchanged by `update`, if it has it, until `finish`, which uses all patches so far."""
    if not _is_streaming(subject):
        return
    scorer, whole = subject.create(), subject.create()
    _update(subject, whole, slice(None))
    whole.finish()
    _update(subject, scorer, slice(CUT))
    scorer.finish()
    before = _scores(subject, scorer)
    _update(subject, scorer, slice(CUT, None))
    subject.expect(
        _are_equal(subject, _scores(subject, scorer), before),
        "the same scores before and after update",
        "other scores",
        "separate what update collects from what scoring uses, until finish",
    )
    scorer.finish()
    subject.expect(
        are_close(_scores(subject, scorer), _scores(subject, whole)),
        "the scores of all images after a second finish",
        "other scores",
        "let update continue from the state before finish",
    )


def streamed_state_is_complete(subject: Subject) -> None:
    """Give equal scores, if it has `update`, after `state` is restored with a bank without rows."""
    if not _is_streaming(subject):
        return
    vectors, origin, *_ = role_module(subject.role).example(subject)
    streamed, restored = subject.create(), subject.create()
    _update(subject, streamed, slice(None))
    streamed.finish()
    restored.restore(MemoryBank(vectors[:0], origin[:0], len(vectors)), streamed.state())
    expected, actual = _scores(subject, streamed), _scores(subject, restored)
    subject.expect(
        _are_equal(subject, actual, expected),
        "equal scores of a scorer restored without a bank",
        "different ones",
        "return everything that scoring uses from state(), since there is no bank",
    )


def _is_streaming(subject: Subject) -> bool:
    methods = [name for name in ("update", "finish") if hasattr(subject.instance, name)]
    subject.expect(
        len(methods) != 1, "both update and finish, or neither", f"{''.join(methods)} alone", "add the other"
    )
    return isinstance(subject.instance, StreamingScorer)


def _update(subject: Subject, scorer: Any, images: slice) -> None:
    vectors, *_ = role_module(subject.role).example(subject)
    scorer.update(Patches(by_image(vectors)[images], descriptors(subject.device)[images]))


def _are_equal(subject: Subject, actual: list[Tensor], expected: list[Tensor]) -> bool:
    return are_identical(actual, expected) if subject.device == "cpu" else are_close(actual, expected)


def _scores(subject: Subject, scorer: Any, rows: int = 0) -> list[Tensor]:
    """Return image scores and map of a scorer whose bank has `rows` rows."""
    role = role_module(subject.role)
    *_, grid, image = role.example(subject)
    return [tensor for tensor in role.score(subject, scorer, Patches(grid, image), rows) if tensor.is_floating_point()]


CHECKS = (streaming_equals_fit, only_finish_changes_scores, streamed_state_is_complete)
