"""Recipes: one or more members, and how images are prepared. Written as TOML."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_plugin.errors import OptionError, PluginError
from patchcore_plugin.plugins.options import validate
from patchcore_plugin.plugins.specs import ROLES

from .member import Choice, MemberRecipe
from .source import read_toml, recipe_names
from .tables import TABLES, Map, Preprocessing

if TYPE_CHECKING:
    from patchcore_plugin.plugins.manager import Host


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One or more members, and the preprocessing and anomaly map that they have in common.

    A recipe of several members is an ensemble: their scores are normalised and averaged.

    Parameters
    ----------
    name, summary
        For people.
    members
        At least one.
    preprocessing, map
        How images become inputs, and patch scores maps.

    Raises
    ------
    OptionError
        If there is no member.

    Examples
    --------
    >>> recipe = Recipe.load("patchcore").change("sampler", {"ratio": 0.01})
    >>> recipe.sampler
    Choice(name='greedy-coreset', options={'ratio': 0.01})
    >>> [member.backbone.name for member in Recipe.load("patchcore-ensemble").members]
    ['wide_resnet101', 'resnext101', 'densenet201']
    """

    name: str
    summary: str
    members: tuple[MemberRecipe, ...]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    map: Map = field(default_factory=Map)

    def __post_init__(self) -> None:
        if not self.members:
            raise OptionError(f"recipe {self.name!r} needs at least one member")

    @staticmethod
    def names() -> list[str]:
        """Return the names of the built-in recipes."""
        return recipe_names()

    @classmethod
    def load(cls, name: str) -> Recipe:
        """Return the built-in recipe of that name, or the recipe in the TOML file at that path.

        Raises
        ------
        OptionError
            If there is no such recipe, or it is not valid.
        """
        return cls.from_dict(read_toml(name), Path(name).parent if name.endswith(".toml") else None)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], folder: Path | None = None) -> Recipe:
        """Return the recipe that `to_dict`, or a TOML file, describes.

        Parameters
        ----------
        data
            Optionally ``name``, ``summary``, ``preprocessing`` and ``map``, and either a table for each role, or a list
            ``members``. A member is the name or path of a recipe with one member; or a table with such a name or path
            as its ``recipe`` and changes by role; or a table for each role. Members must agree in preprocessing and map
            unless the recipe sets them.
        folder
            The folder that paths of members are relative to; the current folder if None.

        Raises
        ------
        OptionError
            For a missing role, a table or option that does not exist, or a value that it cannot take.
        """
        owner = f"recipe {data.get('name', '?')!r}"
        contents = ("members",) if "members" in data else tuple(ROLES)
        allowed = ("name", "summary", *contents, *TABLES)
        for key in data:
            if key not in allowed:
                raise OptionError(f"{owner}: unknown entry {key!r}; its entries are: {', '.join(allowed)}")
        for part in TABLES:
            if not isinstance(data.get(part, {}), Mapping):
                raise OptionError(f"{owner}: {part} must be a table of options, got {data[part]!r}")
        tables = {part: validate(TABLES[part], data[part], f"{owner}, {part}") for part in TABLES if part in data}
        if "members" in data:
            members, common = _members(data["members"], owner, folder, set(TABLES) - set(tables))
            tables = {**common, **tables}
        else:
            members = (_member_of_tables(data, owner),)
        return cls(
            name=str(data.get("name", "")), summary=str(data.get("summary", "")), members=tuple(members), **tables
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-like data; `from_dict` takes it back."""
        tables = {part: dataclasses.asdict(getattr(self, part)) for part in TABLES}
        heading = {"name": self.name, "summary": self.summary}
        if len(self.members) > 1:
            return {**heading, **tables, "members": [member.to_dict() for member in self.members]}
        return {**self.members[0].to_dict(), **heading, **tables}

    def split(self) -> list[Recipe]:
        """Return one recipe for each member."""
        if len(self.members) == 1:
            return [self]
        return [replace(self, name=member.name, summary=member.summary, members=(member,)) for member in self.members]

    def choice(self, role: str) -> Choice:
        """Return the component that the only member has for a role.

        Raises
        ------
        OptionError
            If there are several members.
        """
        if len(self.members) > 1:
            raise OptionError(f"recipe {self.name!r} has {len(self.members)} members, each with its own {role}")
        return self.members[0].choice(role)

    @property
    def backbone(self) -> Choice:
        """The backbone of the only member."""
        return self.choice("backbone")

    @property
    def aggregator(self) -> Choice:
        """The aggregator of the only member."""
        return self.choice("aggregator")

    @property
    def sampler(self) -> Choice:
        """The sampler of the only member."""
        return self.choice("sampler")

    @property
    def scorer(self) -> Choice:
        """The scorer of the only member."""
        return self.choice("scorer")

    def change(self, section: str, change: str | Mapping[str, Any]) -> Recipe:
        """Return a recipe with another component, or with other options.

        Parameters
        ----------
        section
            A role, for all members; a role with the number of a member, such as ``0.sampler``, for that one; or
            "preprocessing" or "map".
        change
            For a role, the name of another component, which starts with its own defaults; or options, which are added
            to those set, unless their "name" is that of another component. Otherwise options.

        Raises
        ------
        OptionError
            If the recipe has no such section, or it cannot take the options.
        """
        if section in TABLES:
            if isinstance(change, str):
                raise OptionError(f"{section}: expected options such as {{'sigma': 4}}, got {change!r}")
            merged = {**dataclasses.asdict(getattr(self, section)), **change}
            table: dict[str, Any] = {section: validate(TABLES[section], merged, section)}
            return replace(self, **table)
        number, dot, role = section.rpartition(".")
        selection = [str(index) for index in range(len(self.members))]
        if role not in ROLES or (dot and number not in selection):
            raise OptionError(
                f"unknown section {section!r} of a recipe; it has: {', '.join([*ROLES, *TABLES])}; for one of several "
                f"members a role with its number, 0 to {selection[-1]}, such as 0.sampler"
            )
        members = tuple(
            member.change(role, change) if not dot or index == number else member
            for index, member in zip(selection, self.members, strict=True)
        )
        return replace(self, members=members)

    def resolve(self, host: Host, seed: int) -> Recipe:
        """Return the recipe with every option of every component written out.

        Parameters
        ----------
        host
            Provides the components.
        seed
            The value of each option ``seed`` that is not set.

        Raises
        ------
        PluginError, OptionError
            If a component does not exist, or cannot take its options.
        """
        members = []
        for number, member in enumerate(self.members):
            try:
                members.append(member.resolve(host, seed))
            except (OptionError, PluginError) as error:
                if len(self.members) == 1:
                    raise
                raise type(error)(f"recipe {self.name!r}, member {number} ({member.name}): {error}") from error
        return replace(self, members=tuple(members))


def _member_of_tables(data: Mapping[str, Any], owner: str) -> MemberRecipe:
    """Return the member that a table for each role describes."""
    choices = {}
    for role in ROLES:
        table = data.get(role)
        if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
            raise OptionError(f"{owner}: needs a table [{role}] with a name")
        options = {key: value for key, value in table.items() if key != "name"}
        choices[role] = Choice(name=table["name"], options=options)
    return MemberRecipe(name=str(data.get("name", "")), summary=str(data.get("summary", "")), **choices)


def _members(
    entries: object, owner: str, folder: Path | None, shared: Collection[str]
) -> tuple[tuple[MemberRecipe, ...], dict[str, Any]]:
    """Return the members that a recipe lists, and the tables `shared` that they must agree in."""
    if not isinstance(entries, list):
        raise OptionError(f"{owner}: members must be a list of recipes, got {entries!r}")
    recipes = []
    for number, entry in enumerate(entries):
        try:
            recipes.append(_member(entry, folder))
        except OptionError as error:
            raise OptionError(f"{owner}, member {number}: {error}") from error
    for part in sorted(shared):
        for number, recipe in enumerate(recipes):
            if getattr(recipe, part) != getattr(recipes[0], part):
                raise OptionError(
                    f"{owner}: its members 0 ({recipes[0].name}) and {number} ({recipe.name}) differ in {part}; add a "
                    f"table [{part}] to the recipe for all of them"
                )
    members = tuple(replace(recipe.members[0], name=recipe.name, summary=recipe.summary) for recipe in recipes)
    return members, {part: getattr(recipes[0], part) for part in shared} if recipes else {}


def _member(entry: object, folder: Path | None) -> Recipe:
    """Return the recipe with one member that an entry of ``members`` describes."""
    if isinstance(entry, str):
        return _base(entry, folder)
    if not isinstance(entry, Mapping):
        raise OptionError(f"expected the name of a recipe, or a table, got {entry!r}")
    for part in TABLES:
        if part in entry:
            raise OptionError(f"{part} applies to all members; move it to the table [{part}] of the recipe")
    if "recipe" not in entry:
        if "members" in entry:
            raise OptionError("a member cannot be an ensemble; list its members instead")
        return Recipe.from_dict(entry)
    recipe = _base(entry["recipe"], folder)
    for key, value in entry.items():
        if key in ("name", "summary"):
            text: dict[str, Any] = {key: str(value)}
            recipe = replace(recipe, **text)
        elif key in ROLES and isinstance(value, (str, Mapping)):
            recipe = recipe.change(key, value)
        elif key != "recipe":
            raise OptionError(
                f"unknown entry {key} = {value!r}; a member has recipe, name, summary and, each as a name or a table: "
                f"{', '.join(ROLES)}"
            )
    return recipe


def _base(name: object, folder: Path | None) -> Recipe:
    if not isinstance(name, str):
        raise OptionError(f"recipe must be the name or path of a recipe, got {name!r}")
    data = read_toml(str((folder or Path()) / name) if name.endswith(".toml") else name)
    if "members" in data:
        raise OptionError(f"{name!r} is an ensemble; list its members instead")
    return Recipe.from_dict(data)
