"""Parsers for the values of ``--set`` and for sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import typer

from patchcore_plugin.errors import OptionError


def group_by_recipe(options: Sequence[str], recipes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the ``--set`` options of each recipe.

    Parameters
    ----------
    options
        ``RECIPE:ROLE.OPTION=VALUE`` applies to one recipe, ``ROLE.OPTION=VALUE`` to all.
    recipes
        Names of the recipes.

    Returns
    -------
    dict
        Recipe name to options without the ``RECIPE:`` prefix, in the given order.

    Raises
    ------
    OptionError
        If an option names another recipe.
    """
    groups: dict[str, tuple[str, ...]] = dict.fromkeys(recipes, ())
    for text in options:
        name, colon, _ = text.partition("=")[0].rpartition(":")
        if not colon:
            groups = {recipe: (*group, text) for recipe, group in groups.items()}
        elif name in groups:
            groups[name] = (*groups[name], text.removeprefix(f"{name}:"))
        else:
            raise OptionError(f"--set {text}: recipe {name!r} is not evaluated; choose from: {', '.join(recipes)}")
    return groups


def parse_option(text: str) -> tuple[str, str, Any]:
    """Return part, option and value of ``ROLE.OPTION=VALUE``.

    Raises
    ------
    OptionError
        If the text has another form.

    Examples
    --------
    >>> parse_option("backbone.layers=layer2,layer3")
    ('backbone', 'layers', ['layer2', 'layer3'])
    """
    key, equals, value = text.partition("=")
    part, dot, option = key.strip().rpartition(".")
    if not (equals and dot and part and option):
        raise OptionError(f"--set {text}: expected ROLE.OPTION=VALUE, such as sampler.ratio=0.01")
    return part, option, _parse_value(value.strip())


def _parse_value(text: str) -> Any:
    """Parse JSON, ``none``, a comma-separated list (``layer2,`` has one item), or plain text."""
    try:
        return json.loads(text)
    except ValueError:  # not JSON, or a number with thousands of digits
        pass
    if text.lower() in ("none", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return [_parse_value(item.strip()) for item in text.split(",") if item.strip()] if "," in text else text


BYTES = {"MB": 10**6, "MIB": 2**20, "GB": 10**9, "GIB": 2**30, "TB": 10**12, "TIB": 2**40}
"""Bytes of each unit of size."""


def parse_size(text: str) -> int:
    """Return a size in bytes.

    Raises
    ------
    typer.BadParameter
        If the text is not a positive number with a unit.

    Examples
    --------
    >>> parse_size("1.5 GiB")
    1610612736
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)", text.strip(), re.IGNORECASE)
    unit = BYTES.get(match[2].upper()) if match else None
    if match is None or unit is None or not float(match[1]):
        raise typer.BadParameter(f"invalid size {text!r}; pass a number with MB, MiB, GB or GiB, such as 2GB")
    return int(float(match[1]) * unit)
