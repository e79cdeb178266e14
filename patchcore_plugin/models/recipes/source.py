"""Sources of recipes: built-in ones and TOML files."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from patchcore_plugin.errors import OptionError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def recipe_names() -> list[str]:
    """Return the names of the built-in recipes."""
    entries = files(__package__).iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def read_toml(name: str) -> dict[str, Any]:
    """Return the content of the built-in recipe of that name, or of the TOML file at that path, with its name.

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
        names = recipe_names()
        if name not in names:
            raise OptionError(
                f"unknown recipe {name!r}; {did_you_mean(name, names)}available: {', '.join(names)}, or the path of a "
                ".toml file"
            )
        text = files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
        stem = name
    try:
        return {"name": stem, **tomllib.loads(text)}
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"recipe {name}: not valid TOML: {error}") from error
