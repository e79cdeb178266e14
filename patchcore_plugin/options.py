"""Options of components and recipes: checked against a dataclass, and described from it."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import OptionError


def validate(config: type[Any], options: Mapping[str, Any], owner: str) -> Any:
    """Return an instance of the dataclass `config` made of `options`.

    Parameters
    ----------
    config
        A dataclass with annotated fields.
    options
        Field values, as they come from Python, TOML or the command line.
    owner
        Whose options these are, for messages: ``sampler 'greedy-coreset'``.

    Raises
    ------
    OptionError
        For a field that does not exist, is missing, or cannot take its value.
    """
    # Imported here because it takes as long as the rest of the host, and listing plugins does not need it.
    from pydantic import TypeAdapter, ValidationError

    names = [field.name for field in dataclasses.fields(config)]
    for name in options:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise OptionError(f"{owner}: unknown option {name!r}; {hint}its options are: {', '.join(names) or 'none'}")
    try:
        return TypeAdapter(config).validate_python(dict(options))
    except ValidationError as error:
        raise OptionError(f"{owner}: {_first(error.errors(include_url=False))}") from None


def _first(problems: list[Any]) -> str:
    """Say what is wrong with one option; of a union's complaints, that of the type that came closest."""
    field = problems[0]["loc"][0] if problems[0]["loc"] else None
    texts = []
    for problem in problems:
        if not problem["loc"] or problem["loc"][0] == field:
            text = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            texts.append(text)
    if field is None:
        return texts[0]
    if problems[0]["type"] == "missing":
        return f"option {field!r} is required"
    value = problems[0]["input"]
    return f"option {field!r} must be {' or '.join(dict.fromkeys(texts))}, got {value!r}"


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option, for people: its name, type and default as written, and its meaning."""

    name: str
    type: str
    default: str
    meaning: str


def describe(config: type[Any]) -> list[Option]:
    """Return the options of the dataclass `config`; the meaning is the string below each field."""
    meanings = _field_docstrings(config)
    options = []
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING:
            default = repr(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = repr(field.default_factory())
        else:
            default = "required"
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        options.append(
            Option(name=field.name, type=kind, default=default, meaning=meanings.get(field.name, ""))
        )
    return options


def _field_docstrings(config: type[Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):
            continue  # made at run time; its options have no meanings to show
        (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for statement, after in zip(body, body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[statement.target.id] = inspect.cleandoc(after.value.value)
    return found
