"""Comparison of recipes: measure every recipe on every category, and cache the results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_plugin.errors import OptionError, PatchcoreError, one_line

from .cache import RECORD, hash_images, read_record, write_record
from .results import COMPARISON_METRICS, CategoryResult, Evaluation, mean_or_none, write_json

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category

    from .published_results import PublishedResult


@dataclass(frozen=True)
class Candidate:
    """A recipe to compare.

    Parameters
    ----------
    name
        Unique name.
    recipe
        The recipe with all options; JSON-like data.
    setup
        Everything else that the results depend on, except the images; JSON-like data.
    reason
        Why the recipe cannot be used at all; None if it can.
    """

    name: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    setup: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None

    @property
    def folder(self) -> str:
        """Name of the folder with its results."""
        return re.sub(r"[^\w.-]+", "_", self.name).lstrip(".") or "_"


Measure = Callable[[Candidate, "Category", Path], CategoryResult]
"""Evaluates a recipe on one category and writes pictures into a folder; raises PatchcoreError on failure."""


@dataclass
class Entry:
    """Results of one recipe.

    Parameters
    ----------
    candidate
        The recipe.
    results
        Results by category.
    reasons
        Reasons of failures by category.
    """

    candidate: Candidate
    results: dict[str, CategoryResult] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def metrics(self, category: str) -> dict[str, float | None]:
        """Return a value or None for each of `COMPARISON_METRICS`.

        Parameters
        ----------
        category
            Name of a category that has a result.
        """
        return {key: self.results[category].metrics.get(key) for key in COMPARISON_METRICS}

    @property
    def mean(self) -> dict[str, float | None]:
        """Mean of each metric over the categories that have it."""
        rows = [self.metrics(category) for category in self.results]
        return {key: mean_or_none([row[key] for row in rows]) for key in COMPARISON_METRICS}

    @property
    def has_no_maps(self) -> bool:
        """Whether the method scores whole images only."""
        return bool(self.results) and all(result.has_no_maps for result in self.results.values())

    @property
    def evaluation(self) -> Evaluation:
        """The results as an evaluation of this recipe."""
        return Evaluation(tuple(self.results.values()), self.candidate.recipe)


@dataclass(frozen=True)
class Comparison:
    """Results of all recipes on all categories.

    Parameters
    ----------
    categories
        Names of all categories, including those on which a recipe failed.
    entries
        One per recipe, in the order of the candidates.
    setup
        Settings that all recipes share: seed, device, versions.
    published
        Results from papers to show with them.
    """

    categories: Sequence[str]
    entries: Sequence[Entry]
    setup: Mapping[str, Any] = field(default_factory=dict)
    published: Sequence[PublishedResult] = ()

    @property
    def unusable(self) -> list[str]:
        """One line per image or mask that could not be used, without repetition."""
        failures = [
            failure.reason for entry in self.entries for result in entry.results.values() for failure in result.failed
        ]
        return list(dict.fromkeys(failures))

    @property
    def reasons(self) -> list[str]:
        """One line per recipe and reason of failure, with the categories unless it failed in the same way on all."""
        lines = []
        for entry in self.entries:
            by_reason: dict[str, list[str]] = {}
            for category, reason in entry.reasons.items():
                by_reason.setdefault(reason, []).append(category)
            for reason, categories in by_reason.items():
                suffix = "" if len(categories) == len(self.categories) else f", {', '.join(categories)}"
                lines.append(f"recipe {entry.candidate.name}{suffix}: {reason}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``comparison.json``."""
        return {
            "categories": list(self.categories),
            "setup": dict(self.setup),
            "recipes": {entry.candidate.name: _entry_to_json(entry) for entry in self.entries},
            "published": [result.to_json() for result in self.published],
        }


def compare(
    categories: Sequence[Category],
    candidates: Sequence[Candidate],
    out: Path,
    measure: Measure,
    *,
    fresh: bool = False,
    note: Callable[[str], object] = lambda line: None,
    setup: Mapping[str, Any] | None = None,
    published: Sequence[PublishedResult] = (),
) -> Comparison:
    """Measure all recipes on all categories, one category after another.

    Each finished pair leaves a record in ``out/<recipe>/<category>``. It is reused as long as nothing that it depends
    on has changed, so an interrupted run can be resumed with the same results. A pair that fails does not stop the
    others; the next run tries it again. ``out/comparison.json`` is updated after each pair.

    Parameters
    ----------
    categories, candidates
        What to measure.
    out
        Folder of the results; created if missing.
    measure
        Measures one pair.
    fresh
        Measure everything again, ignoring records.
    note
        Called with one line about each pair that is reused, outdated or failed.
    setup
        Settings that all recipes share: seed, device, versions.
    published
        Results from papers to show with them.

    Returns
    -------
    Comparison
        All results and failures.

    Raises
    ------
    OptionError
        If two recipes have the same name, or names that map to the same folder.
    OSError
        If a result cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from patchcore_plugin.evaluation import CategoryResult, image_metrics, pixel_metrics
    >>> from patchcore_plugin.data.datasets import Category
    >>> def measure(candidate, category, folder):
    ...     folder.mkdir(parents=True)
    ...     image = image_metrics([False, True], [1.0, candidate.recipe["gain"]])
    ...     return CategoryResult(category.name, {"image_auroc": image.auroc}, image, pixel_metrics([], []))
    >>> candidates = [Candidate(name, {"gain": gain}) for name, gain in (("low", 0.5), ("high", 2.0))]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     comparison = compare([Category("screw", (), ())], candidates, Path(folder), measure)
    >>> {entry.candidate.name: entry.mean["image_auroc"] for entry in comparison.entries}
    {'low': 0.0, 'high': 1.0}
    """
    _require_unique_folders(candidates)
    out.mkdir(parents=True, exist_ok=True)
    entries = [Entry(candidate) for candidate in candidates]
    comparison = Comparison([category.name for category in categories], entries, setup or {}, published)
    for category in categories:
        images = hash_images(category)
        for entry in entries:
            candidate = entry.candidate
            folder = out / candidate.folder / category.name
            dependencies = {"recipe": candidate.recipe, **candidate.setup, "images": images}
            label = f"{candidate.name}, {category.name}"
            try:
                if candidate.reason is not None:
                    raise PatchcoreError(candidate.reason)
                result = None if fresh else _reuse(label, folder, dependencies, note)
                if result is None:
                    # Delete the record first: an interrupted measurement must not look finished.
                    (folder / RECORD).unlink(missing_ok=True)
                    result = measure(candidate, category, folder)
                    write_record(folder, dependencies, result)
            except PatchcoreError as error:
                reason = one_line(error)
                note(f"{label}: failed: {reason}")
                entry.reasons[category.name] = reason
            else:
                entry.results[category.name] = result
            write_json(out / "comparison.json", comparison.to_json())
    return comparison


def _require_unique_folders(candidates: Sequence[Candidate]) -> None:
    names: dict[str, str] = {}
    for candidate in candidates:
        # Some file systems ignore case.
        key = candidate.folder.casefold()
        if key in names:
            raise OptionError(
                f"two recipes are named {candidate.name!r}; pass each once, or rename a .toml file"
                if names[key] == candidate.name
                else f"the recipes {names[key]!r} and {candidate.name!r} map to the same folder; "
                "rename one of the .toml files"
            )
        names[key] = candidate.name


def _reuse(
    label: str, folder: Path, dependencies: Mapping[str, Any], note: Callable[[str], object]
) -> CategoryResult | None:
    result, changes = read_record(folder, dependencies)
    if result is not None:
        note(f"{label}: reused the finished result")
    elif changes:
        note(f"{label}: measuring again, because this changed: {', '.join(changes)}")
    return result


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    return {
        "recipe": dict(entry.candidate.recipe),
        "mean": entry.mean,
        "maps": None if not entry.results else not entry.has_no_maps,
        "categories": {name: entry.metrics(name) for name in entry.results},
        "failed": dict(entry.reasons),
        "unusable": [
            {"category": name, "path": failure.path, "reason": failure.reason}
            for name, result in entry.results.items()
            for failure in result.failed
        ],
    }
