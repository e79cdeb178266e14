"""`patchcore recipes`: list and show the built-in recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from patchcore_plugin.plugins.specs import ROLES

from . import completion
from .console import print_json, print_table
from .options import JsonOption, create_host

app = typer.Typer(help="List and show recipes.", no_args_is_help=True)


@app.command("list")
def list_recipes(as_json: JsonOption = False) -> None:
    """List the built-in recipes."""
    from patchcore_plugin.models.recipes import Recipe

    recipes = [Recipe.load(name) for name in Recipe.names()]
    if as_json:
        print_json([recipe.to_dict() for recipe in recipes])
        return
    print_table(["recipe", "summary"], [[recipe.name, recipe.summary] for recipe in recipes])


@app.command("show")
def show_recipe(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(help="Name of a built-in recipe, or path of a .toml file.", autocompletion=completion.recipes),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show a recipe as TOML with all options."""
    from patchcore_plugin.models.recipes import Recipe

    recipe = Recipe.load(name).resolve(create_host(context), seed=0)
    content = recipe.to_dict()
    if as_json:
        print_json(content)
        return
    print(f"# {recipe.name}: {' '.join(recipe.summary.split())}")
    if recipe.preprocessing.crop is not None:
        height, width = recipe.preprocessing.crop
        print(
            f"# Only the central {height} x {width} pixels of the resized image are inspected: "
            "defects in the border are NOT detected."
        )
    for part in ("preprocessing", *ROLES, "map"):
        if part in content:
            _print_toml_table(part, content[part])
    for number, member in enumerate(content.get("members", ())):
        print(f"\n# Member {number}\n[[members]]")
        for key in ("name", "summary"):
            print(f"{key} = {_format_toml(member[key])}")
        for role in ROLES:
            _print_toml_table(f"members.{role}", member[role])


def _print_toml_table(name: str, options: Mapping[str, Any]) -> None:
    print(f"\n[{name}]")
    for option, value in options.items():
        print(f"{option} = {_format_toml(value)}" if value is not None else f"# {option} is not set")


def _format_toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # TOML has the same escapes
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_format_toml, value))}]"
    return str(value)
