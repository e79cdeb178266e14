"""Model card: training data, components and settings of a model, and limitations of its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from patchcore_plugin.evaluation.results import CategoryResult

from .format import number, percent

CONFIDENCE = 0.95
"""Confidence level of the intervals of observed rates."""
FEW_IMAGES = 200
"""With fewer test images, the card points out that the rates are uncertain."""


def model_card(category: CategoryResult) -> list[tuple[str, str]]:
    """Return the rows of the model card.

    Parameters
    ----------
    category
        Results of a category.

    Returns
    -------
    list of (str, str)
        Label and text; unknown properties are omitted.
    """
    model, calibration = category.model, category.calibration
    kinds = Counter(image.kind for image in category.images)
    rows = [
        ("Category", category.name),
        ("Training images", _training_images(model)),
        ("Test images", ", ".join(f"{count} {kind}" for kind, count in kinds.items())),
        *_components(model, ""),
        ("Seed", _text(model.get("seed"))),
        ("Precision", _text(model.get("precision"))),
        ("Software", ", ".join(f"{name} {version}" for name, version in model.get("software", {}).items())),
        ("Threshold", "" if category.threshold is None else number(category.threshold)),
        ("Calibration", "" if calibration is None else calibration.describe()),
    ]
    if calibration is not None and calibration.map_threshold is not None:
        rows.append(("Map threshold", number(calibration.map_threshold)))
    return [(label, text) for label, text in rows if text]


def limitations(category: CategoryResult) -> list[str]:
    """Return the limitations of the results, with their numbers.

    Parameters
    ----------
    category
        Results of a category.

    Returns
    -------
    list of str
        Full sentences: the lowest false-alarm rate that can be guaranteed, confidence intervals of the observed rates
        (Clopper and Pearson, 1934), and kinds of defect that were missed completely.
    """
    sentences = []
    calibration, counts = category.calibration, category.at_threshold
    if calibration is not None and calibration.scores:
        sentences.append(
            f"With {len(calibration.scores):,} calibration images, no false-alarm rate below "
            f"{percent(calibration.smallest_rate)} can be guaranteed. "
            "The guarantee holds only for images taken under the same conditions."
        )
    if counts is not None:
        intervals = [
            f"{label} {_interval(*pair)}"
            for label, pair in (("false alarms", counts.good), ("detected defects", counts.defective))
            if pair[1]
        ]
        if intervals:
            few = "" if counts.good[1] + counts.defective[1] >= FEW_IMAGES else "Few test images: rates are uncertain. "
            sentences.append(f"{few}{CONFIDENCE:.0%} confidence intervals: {'; '.join(intervals)}.")
        missed = [kind for kind, (detected, _) in counts.kinds.items() if not detected]
        if missed:
            sentences.append(f"Kinds of defect without a single detection: {', '.join(missed)}.")
    return sentences


def _interval(above: int, images: int) -> str:
    from scipy.stats import binomtest

    low, high = binomtest(above, images).proportion_ci(CONFIDENCE)
    return f"{above} of {images} ({percent(low)} to {percent(high)})"


def _training_images(model: Mapping[str, Any]) -> str:
    folders = ", ".join(model.get("folders", ()))
    return f"{model['images']:,} good images from {folders}" if "images" in model else ""


def _components(model: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the rows about components and memory bank; in an ensemble, member by member."""
    members = model.get("members", ())
    for index, member in enumerate(members):
        yield from _components(member, f"{index}. ")
    if members or "plugins" not in model:
        return
    recipe = model["recipe"]
    for role, plugin in model["plugins"].items():
        yield f"{prefix}{role.capitalize()}", f"{recipe[role]['name']} ({plugin['distribution']} {plugin['version']})"
    yield f"{prefix}Backbone SHA-256", model["backbone_sha256"]
    rows, patches, radius = model["bank_rows"], model["patches_seen"], model["covering_radius"]
    covering = "" if radius is None else f", covering radius {number(radius)}"
    bank = f"{rows:,} of {patches:,} patches{covering}" if rows else f"none; statistics of {patches:,} patches"
    yield f"{prefix}Memory bank", bank


def _text(value: object) -> str:
    return "" if value is None else str(value)
