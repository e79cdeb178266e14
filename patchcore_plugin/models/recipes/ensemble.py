"""Recipes of recipes: several methods that judge the same images together. Written as TOML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_plugin.errors import OptionError, PluginError
from patchcore_plugin.plugins.options import validate
from patchcore_plugin.plugins.specs import ROLES

from .recipe import Map, Preprocessing, Recipe, read_recipe

if TYPE_CHECKING:
    from patchcore_plugin.plugins.manager import Host

SHARED = {"preprocessing": Preprocessing, "map": Map}
"""What an ensemble has once: images are read once for all members, and their maps lie on one another."""


@dataclass(frozen=True, kw_only=True)
class EnsembleRecipe:
    """Several recipes, each a whole method, with one preprocessing and map for all of them.

    Parameters
    ----------
    name, summary
        As in `Recipe`.
    members
        At least one; equal in preprocessing and map.

    Raises
    ------
    OptionError
        If there is no member, or they differ in preprocessing or map.

    Examples
    --------
    >>> recipe = load_recipe("patchcore-ensemble").change("sampler", {"ratio": 0.1})
    >>> [member.backbone.name for member in recipe.members]
    ['wide_resnet101', 'resnext101', 'densenet201']
    """

    name: str
    summary: str
    members: tuple[Recipe, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise OptionError(f"recipe {self.name!r}: an ensemble needs at least one member")
        for part in SHARED:
            for number, member in enumerate(self.members):
                if getattr(member, part) != getattr(self.members[0], part):
                    raise OptionError(
                        f"recipe {self.name!r}: its members 0 ({self.members[0].name}) and {number} ({member.name}) "
                        f"differ in {part}; give the ensemble a table [{part}] for all of them"
                    )

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the input of every network."""
        return self.members[0].preprocessing

    @property
    def map(self) -> Map:
        """How patch scores become an anomaly map."""
        return self.members[0].map

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], folder: Path | None = None) -> EnsembleRecipe:
        """Return the ensemble that `to_dict`, or a TOML file, describes.

        Parameters
        ----------
        data
            ``members``, and optionally ``name``, ``summary``, ``preprocessing`` and ``map``. A member is the name or
            path of a recipe; or a table with that as its ``recipe`` and changes by role; or a whole recipe. The tables
            ``preprocessing`` and ``map`` take the place of the members' own; without them the members must agree.
        folder
            Where paths of members start; the current folder if None.

        Raises
        ------
        OptionError
            For an entry that does not exist, or members that are none, unknown, ensembles or at odds.
        """
        owner = f"recipe {data.get('name', '?')!r}"
        allowed = ("name", "summary", "members", *SHARED)
        for key in data:
            if key not in allowed:
                raise OptionError(f"{owner}: unknown entry {key!r}; an ensemble's entries are: {', '.join(allowed)}")
        entries = data.get("members")
        if not isinstance(entries, list):
            raise OptionError(f"{owner}: members must be a list of recipes, got {entries!r}")
        members = []
        for number, entry in enumerate(entries):
            try:
                members.append(_member(entry, folder))
            except OptionError as error:
                raise OptionError(f"{owner}, member {number}: {error}") from error
        for part, config in SHARED.items():
            if part in data:
                if not isinstance(data[part], Mapping):
                    raise OptionError(f"{owner}: {part} must be a table of options, got {data[part]!r}")
                table: dict[str, Any] = {part: validate(config, data[part], f"{owner}, {part}")}
                members = [dataclasses.replace(member, **table) for member in members]
        return cls(name=str(data.get("name", "")), summary=str(data.get("summary", "")), members=tuple(members))

    def to_dict(self) -> dict[str, Any]:
        """Return the ensemble as JSON-like data; `from_dict` takes it back."""
        members = [
            {key: value for key, value in member.to_dict().items() if key not in SHARED} for member in self.members
        ]
        tables = {part: dataclasses.asdict(getattr(self, part)) for part in SHARED}
        return {"name": self.name, "summary": self.summary, **tables, "members": members}

    def change(self, part: str, change: str | Mapping[str, Any]) -> EnsembleRecipe:
        """Return an ensemble with another component, or with other options.

        Parameters
        ----------
        part
            As in `Recipe.change`, for every member; a role with a member's number before it, such as ``0.sampler``,
            for that one.
        change
            As in `Recipe.change`.
        """
        number, dot, role = part.partition(".")
        if not dot:
            return dataclasses.replace(self, members=tuple(member.change(part, change) for member in self.members))
        if number not in map(str, range(len(self.members))) or role not in ROLES:
            raise OptionError(
                f"unknown part {part!r} of an ensemble; a part of one member is its number, from 0 to "
                f"{len(self.members) - 1}, and a role, such as 0.sampler"
            )
        members = list(self.members)
        members[int(number)] = members[int(number)].change(role, change)
        return dataclasses.replace(self, members=tuple(members))

    def resolved(self, host: Host, seed: int) -> EnsembleRecipe:
        """Return the ensemble with every option of every member written out, `seed` where none was set."""
        members = []
        for number, member in enumerate(self.members):
            try:
                members.append(member.resolved(host, seed))
            except (OptionError, PluginError) as error:
                raise type(error)(f"recipe {self.name!r}, member {number} ({member.name}): {error}") from error
        return dataclasses.replace(self, members=tuple(members))


AnyRecipe = Recipe | EnsembleRecipe


def load_recipe(name: str) -> AnyRecipe:
    """Return the shipped recipe of that name, or the one in the TOML file of that path: a method or an ensemble.

    Raises
    ------
    OptionError
        If there is no such recipe, or it is not a recipe.
    """
    data = read_recipe(name)
    if "members" in data:
        return EnsembleRecipe.from_dict(data, Path(name).parent if name.endswith(".toml") else None)
    return Recipe.from_dict(data)


def _member(entry: object, folder: Path | None) -> Recipe:
    if isinstance(entry, str):
        return _base(entry, folder)
    if not isinstance(entry, Mapping):
        raise OptionError(f"expected the name of a recipe, or a table, got {entry!r}")
    for part in SHARED:
        if part in entry:
            raise OptionError(f"{part} is one for all members; write it as the ensemble's table [{part}]")
    if "recipe" not in entry:
        return Recipe.from_dict(entry)
    recipe = _base(entry["recipe"], folder)
    for key, value in entry.items():
        if key in ("name", "summary"):
            text: dict[str, Any] = {key: str(value)}
            recipe = dataclasses.replace(recipe, **text)
        elif key in ROLES and isinstance(value, (str, Mapping)):
            recipe = recipe.change(key, value)
        elif key != "recipe":
            raise OptionError(
                f"unknown entry {key} = {value!r}; beside recipe, name and summary it may have, as a name or a table: "
                f"{', '.join(ROLES)}"
            )
    return recipe


def _base(name: object, folder: Path | None) -> Recipe:
    if not isinstance(name, str):
        raise OptionError(f"recipe must be the name of one, or a path, got {name!r}")
    data = read_recipe(str((folder or Path()) / name) if name.endswith(".toml") else name)
    if "members" in data:
        raise OptionError(f"{name!r} is an ensemble itself; name its members instead")
    return Recipe.from_dict(data)
