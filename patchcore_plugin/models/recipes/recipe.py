"""Recipes: four components with their options, and how images are prepared. Written as TOML."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from patchcore_plugin.errors import OptionError
from patchcore_plugin.plugins.options import validate
from patchcore_plugin.plugins.specs import ROLES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from patchcore_plugin.plugins.manager import Host

Size = Annotated[int, Ge(8)]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the network's input."""

    size: tuple[Size, Size] = (256, 256)
    """Height and width, in pixels, that the image is resized to (bilinear, antialiased)."""
    keep_aspect: bool = False
    """Resize the shorter side to its `size` and keep the proportions, rather than stretch; needs `crop`."""
    crop: tuple[Size, Size] | None = None
    """Height and width of the central part that is inspected; what lies outside is not."""
    tile: tuple[Size, Size] | None = None
    """Height and width of the tiles that the network gets one by one, for images too large or defects too small to be
    resized; None for the whole input at once."""
    overlap: Annotated[int, Ge(0)] = 0
    """Pixels that neighbouring tiles have in common at least; features change gradually there."""

    def __post_init__(self) -> None:
        if self.keep_aspect and self.crop is None:
            raise ValueError("keep_aspect needs crop, so that all images become inputs of one shape")
        if self.crop is not None and (self.crop[0] > self.size[0] or self.crop[1] > self.size[1]):
            raise ValueError(f"crop {list(self.crop)} is larger than size {list(self.size)}")
        height, width = self.crop or self.size
        if self.tile is not None and (self.tile[0] > height or self.tile[1] > width):
            raise ValueError(f"tile {list(self.tile)} is larger than the input, {[height, width]}")
        if self.overlap and (self.tile is None or self.overlap >= min(self.tile)):
            raise ValueError(f"overlap {self.overlap} needs a tile that is larger, both ways")


@dataclass(frozen=True, kw_only=True)
class Map:
    """How patch scores become an anomaly map."""

    sigma: Annotated[float, Ge(0), Le(1000)] = 4.0
    """Standard deviation of the Gaussian blur, in pixels of the network's input; 0 for none."""
    upsample: Literal["bilinear", "nearest"] = "bilinear"
    """How patch scores are brought to the size of the network's input before the blur."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A component's name and the options that are set."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole method: one component for each role, preprocessing and map.

    Examples
    --------
    >>> recipe = Recipe.load("patchcore").change("sampler", {"ratio": 0.01})
    >>> recipe.sampler
    Choice(name='greedy-coreset', options={'ratio': 0.01})
    """

    name: str
    summary: str
    backbone: Choice
    aggregator: Choice
    sampler: Choice
    scorer: Choice
    preprocessing: Preprocessing = Preprocessing()
    map: Map = Map()

    @staticmethod
    def names() -> list[str]:
        """Return the names of the shipped recipes."""
        return sorted(
            entry.name.removesuffix(".toml") for entry in files(__package__).iterdir() if entry.name.endswith(".toml")
        )

    @classmethod
    def load(cls, name: str) -> Recipe:
        """Return the shipped recipe of that name, or the one in the TOML file of that path.

        Raises
        ------
        OptionError
            If there is no such recipe, it is not a recipe, or it is an ensemble (`load_recipe` returns either).
        """
        return cls.from_dict(read_recipe(name))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_dict`, or a TOML file, describes.

        Raises
        ------
        OptionError
            For a missing role, a table or option that does not exist, or a value that it cannot take.
        """
        owner = f"recipe {data.get('name', '?')!r}"
        if "members" in data:
            raise OptionError(f"{owner} is an ensemble, not a single method; name one of its members here")
        allowed = ("name", "summary", *ROLES, "preprocessing", "map")
        for key in data:
            if key not in allowed:
                raise OptionError(f"{owner}: unknown entry {key!r}; its entries are: {', '.join(allowed)}")
        choices = {}
        for role in ROLES:
            table = data.get(role)
            if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
                raise OptionError(f"{owner}: needs a table [{role}] with a name")
            options = {key: value for key, value in table.items() if key != "name"}
            choices[role] = Choice(name=table["name"], options=options)
        for part in ("preprocessing", "map"):
            if not isinstance(data.get(part, {}), Mapping):
                raise OptionError(f"{owner}: {part} must be a table of options, got {data[part]!r}")
        return cls(
            name=str(data.get("name", "")),
            summary=str(data.get("summary", "")),
            preprocessing=validate(Preprocessing, data.get("preprocessing", {}), f"{owner}, preprocessing"),
            map=validate(Map, data.get("map", {}), f"{owner}, map"),
            **choices,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-like data; `from_dict` takes it back."""
        roles = {role: {"name": self.choice(role).name, **self.choice(role).options} for role in ROLES}
        tables = {
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "map": dataclasses.asdict(self.map),
        }
        return {"name": self.name, "summary": self.summary, **roles, **tables}

    def choice(self, role: str) -> Choice:
        """Return the component chosen for a role."""
        choice: Choice = getattr(self, role)
        return choice

    def change(self, part: str, change: str | Mapping[str, Any]) -> Recipe:
        """Return a recipe with another component, or with other options.

        Parameters
        ----------
        part
            A role, or "preprocessing" or "map".
        change
            For a role, the name of another component, which starts with its own defaults; or options,
            which are added to those set, unless their "name" is that of another component.
        """
        if part in ("preprocessing", "map"):
            table = getattr(self, part)
            if isinstance(change, str):
                raise OptionError(f"{part}: expected options such as {{'sigma': 4}}, got {change!r}")
            merged = {**dataclasses.asdict(table), **change}
            return dataclasses.replace(self, **{part: validate(type(table), merged, part)})
        if part not in ROLES:
            raise OptionError(
                f"unknown part {part!r} of a recipe; it has: {', '.join([*ROLES, 'preprocessing', 'map'])}"
            )
        old = self.choice(part)
        options = {"name": change} if isinstance(change, str) else dict(change)
        name = options.pop("name", old.name)
        if not isinstance(name, str):
            raise OptionError(f"{part}: its name must be text, got {name!r}")
        if name == old.name:
            options = {**old.options, **options}
        changed: dict[str, Any] = {part: Choice(name=name, options=options)}
        return dataclasses.replace(self, **changed)

    def resolved(self, host: Host, seed: int) -> Recipe:
        """Return the recipe with every option of every component written out, `seed` where none was set."""
        recipe = self
        for role in ROLES:
            choice = self.choice(role)
            component = host.component(role, choice.name)
            options = dict(choice.options)
            if "seed" in {each.name for each in dataclasses.fields(component.spec.config)}:
                options.setdefault("seed", seed)
            config = host.configure(role, choice.name, options)
            written: dict[str, Any] = {role: Choice(name=choice.name, options=dataclasses.asdict(config))}
            recipe = dataclasses.replace(recipe, **written)
        return recipe


def read_recipe(name: str) -> dict[str, Any]:
    """Return what stands in the shipped recipe of that name, or in the TOML file of that path; its name included.

    Raises
    ------
    OptionError
        If there is no such recipe, or it is not TOML.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise OptionError(f"recipe file {name} does not exist")
        try:
            text, stem = path.read_text(encoding="utf-8"), path.stem
        except UnicodeDecodeError as error:
            raise OptionError(f"recipe file {name} is not UTF-8 text: {error}") from error
    else:
        names = Recipe.names()
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise OptionError(
                f"unknown recipe {name!r}; {hint}available: {', '.join(names)}, or the path of a .toml file"
            )
        text = files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
        stem = name
    try:
        return {"name": stem, **tomllib.loads(text)}
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"recipe {name}: not valid TOML: {error}") from error
