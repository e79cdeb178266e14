"""What a report says of the model behind it: what it was made of and with, and how far its figures carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from patchcore_plugin.evaluation.results import CategoryResult, Verdicts

from .format import number, percent

CONFIDENCE = 0.95
"""How sure the range of an observed rate is."""


def model_card(category: CategoryResult) -> list[tuple[str, str]]:
    """Return the card's lines, what is said and of what; those that are not known are left out."""
    model, calibration = category.model, category.calibration
    kinds: dict[str, int] = {}
    for image in category.images:
        kinds[image.kind] = kinds.get(image.kind, 0) + 1
    lines = [
        ("Category", category.name),
        ("Fitted on", _images(model)),
        ("Tested on", ", ".join(f"{count} {kind}" for kind, count in kinds.items())),
        *_learned(model, ""),
        ("Seed", _text(model.get("seed"))),
        ("Precision", _text(model.get("precision"))),
        ("Versions", _versions(model.get("software", {}))),
        ("Threshold", "" if category.threshold is None else number(category.threshold)),
        ("Calibrated by", "" if calibration is None else calibration.describe()),
    ]
    if calibration is not None and calibration.map_threshold is not None:
        lines.append(("Regions", f"where the map is above {number(calibration.map_threshold)}"))
    return [(name, text) for name, text in lines if text]


def limits(category: CategoryResult) -> list[str]:
    """Return what the figures do not say, in sentences with their numbers."""
    said = []
    calibration, verdicts = category.calibration, category.verdicts
    if calibration is not None and calibration.scores:
        said.append(
            f"Its {len(calibration.scores):,} judged good images can promise no false-alarm rate below "
            f"{percent(calibration.smallest_rate)}, and promise it for images taken as these were."
        )
    if verdicts is not None:
        observed = [
            f"{what} {_range(*counts)}"
            for what, counts in (("false alarms", verdicts.good), ("defects found", verdicts.defective))
            if counts[1]
        ]
        if observed:
            said.append(
                f"So few test images tell rates roughly; {CONFIDENCE:.0%} intervals: {'; '.join(observed)}."
                if sum(counts[1] for counts in (verdicts.good, verdicts.defective)) < 200
                else f"{CONFIDENCE:.0%} intervals of the observed rates: {'; '.join(observed)}."
            )
        said += _unseen(verdicts)
    return said


def _unseen(verdicts: Verdicts) -> list[str]:
    missed = [kind for kind, (found, _) in verdicts.kinds.items() if not found]
    return [f"It found none of: {', '.join(missed)}."] if missed else []


def _range(found: int, images: int) -> str:
    """Return a share of images with the exact interval of Clopper and Pearson."""
    from scipy.stats import binomtest

    low, high = binomtest(found, images).proportion_ci(CONFIDENCE)
    return f"{found} of {images}, {percent(low)} to {percent(high)}"


def _images(model: Mapping[str, Any]) -> str:
    folders = ", ".join(model.get("folders", ()))
    return f"{model['images']:,} good images of {folders}" if "images" in model else ""


def _learned(model: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield what was learned, and by which components; of an ensemble, member after member."""
    members = model.get("members", ())
    for number_of, member in enumerate(members):
        yield from _learned(member, f"{number_of}. ")
    if members or "plugins" not in model:
        return
    choices = model["recipe"]
    for role, plugin in model["plugins"].items():
        yield f"{prefix}{role.capitalize()}", f"{choices[role]['name']} ({plugin['distribution']} {plugin['version']})"
    yield f"{prefix}SHA-256 of the backbone", model["backbone_sha256"]
    rows, seen, radius = model["bank_rows"], model["patches_seen"], model["covering_radius"]
    covering = "" if radius is None else f", covering radius {number(radius)}"
    yield f"{prefix}Memory bank", f"{rows:,} of {seen:,} patches{covering}" if rows else f"{seen:,} patches, none kept"


def _versions(software: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in software.items())


def _text(value: object) -> str:
    return "" if value is None else str(value)
