"""Summary of a fitted model, for `fit` and `update`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .console import escape_unprintable, format_decimal

if TYPE_CHECKING:
    from patchcore_plugin.models.detector import Detector
    from patchcore_plugin.models.member import Member

HIGHEST = 3
"""How many training images with the highest scores to list."""


def find_highest(detector: Detector) -> list[dict[str, Any]]:
    """Return path and held-out score of the training images with the highest scores, highest first."""
    scores = sorted(detector.held_out_scores, key=lambda item: -item[1])
    return [{"path": path, "score": score} for path, score in scores[:HIGHEST]]


def format_highest(images: Sequence[Mapping[str, Any]]) -> str:
    """Return a line that lists the images of `find_highest`."""
    names = ", ".join(f"{escape_unprintable(image['path'])} ({format_decimal(image['score'])})" for image in images)
    return f"highest    {names}: if one of these images shows a defect, remove it and fit again"


def describe_bank(detector: Detector) -> dict[str, Any]:
    """Return size and covering radius of the memory bank, or of each member's under the key ``members``."""
    banks = [_describe_member(member) for member in detector.members]
    if len(banks) == 1:
        return banks[0]
    names = [member.recipe.name for member in detector.members]
    return {"members": [{"name": name, **bank} for name, bank in zip(names, banks, strict=True)]}


def _describe_member(member: Member) -> dict[str, Any]:
    return {
        "bank_rows": member.bank_rows,
        "patches_seen": member.bank.seen,
        "covering_radius": member.covering_radius,
        "radius_is_exact": member.radius_is_exact,
        "radius_curve": member.radius_curve,
    }


def format_bank(bank: Mapping[str, Any]) -> str:
    """Return size and covering radius of one memory bank as text."""
    if not bank["bank_rows"]:
        return f"no rows; statistics of {bank['patches_seen']:,} patches"
    radius = ("" if bank["radius_is_exact"] else "at most ") + format_decimal(bank["covering_radius"])
    return f"{bank['bank_rows']:,} of {bank['patches_seen']:,} patches, covering radius {radius}"
