"""Several recipes on the same categories: every pair is measured alike, once, and kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_plugin.errors import OptionError, PatchcoreError

from .cache import NAME, images_digest, read_record, write_record
from .results import COMPARED, CategoryResult, Evaluation, mean_of, write_json

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category

    from .published import Published


@dataclass(frozen=True)
class Contender:
    """A recipe that takes part.

    Parameters
    ----------
    name
        By which it is told from the others.
    recipe
        With every option written out; must fit into JSON.
    setup
        What else its figures depend on, the images apart; must fit into JSON.
    reason
        Why it cannot be measured at all, if so.
    """

    name: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    setup: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return re.sub(r"[^\w.-]+", "_", self.name).lstrip(".") or "_"


Measure = Callable[[Contender, "Category", Path], CategoryResult]
"""Measures a recipe on one category, writing into a folder; raises PatchcoreError where it cannot."""


@dataclass
class Entry:
    """What was found of one recipe: results by category, and the reasons where there are none."""

    contender: Contender
    results: dict[str, CategoryResult] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def figures(self, category: str) -> dict[str, float | None]:
        """Return a figure, or None, for each of `COMPARED`."""
        return {key: self.results[category].metrics.get(key) for key in COMPARED}

    @property
    def mean(self) -> dict[str, float | None]:
        """The mean of each figure over the categories that have it."""
        found = [self.figures(category) for category in self.results]
        return {key: mean_of([each[key] for each in found]) for key in COMPARED}

    @property
    def has_no_maps(self) -> bool:
        """Whether the method judges whole images only."""
        return bool(self.results) and all(each.has_no_maps for each in self.results.values())

    @property
    def evaluation(self) -> Evaluation:
        """The same as an evaluation of this recipe alone."""
        return Evaluation(tuple(self.results.values()), self.contender.recipe)


@dataclass(frozen=True)
class Comparison:
    """What was found of all recipes on all categories.

    Parameters
    ----------
    categories
        The names of all, also of those that a recipe failed on.
    entries
        One for each recipe, in the order in which they were asked for.
    setup
        What is the same for all recipes: seed, device, versions.
    published
        Figures of others to be shown beside.
    """

    categories: Sequence[str]
    entries: Sequence[Entry]
    setup: Mapping[str, Any] = field(default_factory=dict)
    published: Sequence[Published] = ()

    @property
    def unusable(self) -> list[str]:
        """A line for each image or mask that could not be used, once for all recipes."""
        failures = [
            failure.reason for entry in self.entries for result in entry.results.values() for failure in result.failed
        ]
        return list(dict.fromkeys(failures))

    @property
    def reasons(self) -> list[str]:
        """A line for each recipe that failed, and where; one line where it failed everywhere alike."""
        lines = []
        for entry in self.entries:
            by_reason: dict[str, list[str]] = {}
            for category, reason in entry.reasons.items():
                by_reason.setdefault(reason, []).append(category)
            for reason, where in by_reason.items():
                place = "" if len(where) == len(self.categories) else f", {', '.join(where)}"
                lines.append(f"recipe {entry.contender.name}{place}: {reason}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``comparison.json``."""
        return {
            "categories": list(self.categories),
            "setup": dict(self.setup),
            "recipes": {entry.contender.name: _to_json(entry) for entry in self.entries},
            "published": [each.to_json() for each in self.published],
        }


def compare(
    categories: Sequence[Category],
    contenders: Sequence[Contender],
    out: Path,
    measure: Measure,
    *,
    fresh: bool = False,
    note: Callable[[str], object] = lambda line: None,
    setup: Mapping[str, Any] | None = None,
    published: Sequence[Published] = (),
) -> Comparison:
    """Measure all recipes on all categories, category after category.

    A finished pair leaves a record in ``out/<recipe>/<category>``. It is not measured again as long as all that it
    depends on is the same, so that a run that was broken off goes on where it was, with the same figures. A pair that
    fails stops no other; it is tried again the next time. ``out/comparison.json`` is written anew after each pair.

    Parameters
    ----------
    categories, contenders
        What to measure.
    out
        Folder of the results; made if it is missing.
    measure
        Does the work on one pair.
    fresh
        Measure everything, whatever is there.
    note
        Called with a line about each pair that is taken over, or why it cannot be.
    setup, published
        As of `Comparison`.

    Raises
    ------
    OptionError
        If two recipes cannot be told apart.
    """
    _check_names(contenders)
    out.mkdir(parents=True, exist_ok=True)
    entries = [Entry(each) for each in contenders]
    comparison = Comparison([each.name for each in categories], entries, setup or {}, published)
    for category in categories:
        images = images_digest(category)
        for entry in entries:
            contender = entry.contender
            place = out / contender.folder / category.name
            depends = {"recipe": contender.recipe, **contender.setup, "images": images}
            try:
                if contender.reason is not None:
                    raise PatchcoreError(contender.reason)
                result = None if fresh else _taken_over(contender, category, place, depends, note)
                if result is None:
                    # Gone before the work starts, so that nothing half done lies beside an old record.
                    (place / NAME).unlink(missing_ok=True)
                    result = measure(contender, category, place)
                    write_record(place, depends, result)
            except PatchcoreError as error:
                reason = " ".join(str(error).split())
                note(f"{contender.name}, {category.name}: failed: {reason}")
                entry.reasons[category.name] = reason
            else:
                entry.results[category.name] = result
            write_json(out / "comparison.json", comparison.to_json())
    return comparison


def _check_names(contenders: Sequence[Contender]) -> None:
    known: dict[str, str] = {}
    for each in contenders:
        # Some file systems take A and a for the same name.
        key = each.folder.casefold()
        if key in known:
            other = known[key]
            raise OptionError(
                f"two recipes are called {each.name!r}; give each once, or rename a .toml file"
                if other == each.name
                else f"the recipes {other!r} and {each.name!r} would share a folder; rename one of the .toml files"
            )
        known[key] = each.name


def _taken_over(
    contender: Contender, category: Category, place: Path, depends: Mapping[str, Any], note: Callable[[str], object]
) -> CategoryResult | None:
    result, changed = read_record(place, depends)
    if result is not None:
        note(f"{contender.name}, {category.name}: finished before, taken over")
    elif changed:
        note(f"{contender.name}, {category.name}: finished before with other {', '.join(changed)}; measured again")
    return result


def _to_json(entry: Entry) -> dict[str, Any]:
    return {
        "recipe": dict(entry.contender.recipe),
        "mean": entry.mean,
        "maps": None if not entry.results else not entry.has_no_maps,
        "categories": {name: entry.figures(name) for name in entry.results},
        "failed": dict(entry.reasons),
        "unusable": [
            {"category": name, "path": failure.path, "reason": failure.reason}
            for name, result in entry.results.items()
            for failure in result.failed
        ],
    }
