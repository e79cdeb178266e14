"""Options of components and recipes: checked against a dataclass, and described from it."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from patchcore_plugin.errors import OptionError


def validate(config: type[Any], options: Mapping[str, Any], owner: str) -> Any:
    """Return an instance of the dataclass `config` made of `options`.

    Parameters
    ----------
    config
        A dataclass with annotated fields. A class variable ``renamed_options`` maps older names of fields, which model
        files may contain, to the present ones.
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
    renamed: Mapping[str, str] = getattr(config, "renamed_options", {})
    options = {renamed.get(name, name): value for name, value in options.items()}
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
    first = problems[0]
    if not first["loc"]:
        return str(first["msg"]).removeprefix("Value error, ")
    field = first["loc"][0]
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"option {field!r} is required"
    texts = [_expected(problem) for problem in problems if problem["loc"] and problem["loc"][0] == field]
    return f"option {field!r} must {' or '.join(dict.fromkeys(texts))}, got {first['input']!r}".replace(
        " or be ", " or "
    )


def _expected(problem: Mapping[str, Any]) -> str:
    """Return one of pydantic's complaints about a value so that it goes on after "must"."""
    kind, limits = problem["type"], problem.get("ctx", {})
    if kind == "missing":
        return "have more values"
    if kind in ("tuple_type", "list_type"):
        return "be a list"
    if kind == "too_long" and "max_length" in limits:
        return f"have at most {limits['max_length']} values"
    if kind == "too_short" and "min_length" in limits:
        return f"have at least {limits['min_length']} values"
    text = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if kind.endswith(("_parsing", "_from_float")):
        text = text.partition(", ")[0]  # why the text is no number is seen from the value that is shown
    return f"be {text}"


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option, for people: its name, type and default, and its meaning."""

    name: str
    type: str
    default: str
    meaning: str


def describe(config: type[Any]) -> list[Option]:
    """Return the options of the dataclass `config`; the meaning is the string below each field."""
    meanings, hints = _field_docstrings(config), _hints(config)
    options = []
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING:
            default = repr(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = repr(field.default_factory())
        else:
            default = "required"
        kind = _kind(hints.get(field.name, field.type))
        options.append(Option(name=field.name, type=kind, default=default, meaning=meanings.get(field.name, "")))
    return options


def _hints(config: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(config, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}  # a name that only a type checker knows: annotations are shown as they are written


def _kind(hint: Any) -> str:
    """Return a type for people: ``Annotated[float, Gt(0), Le(1)]`` is "float, > 0, <= 1"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ", ".join([_kind(arguments[0]), *_limits(arguments[1:])])
    if origin in (Union, UnionType):
        limited = any(get_origin(each) is Annotated for each in arguments)
        return (", or " if limited else " or ").join(_kind(each) for each in arguments)
    if origin is Literal:
        return " or ".join(repr(each) for each in arguments)
    if origin is not None and arguments:
        inner = ["..." if each is Ellipsis else _kind(each).replace(", ", " ") for each in arguments]
        return f"{getattr(origin, '__name__', origin)}[{', '.join(inner)}]"
    if hint is type(None):
        return "None"
    return hint if isinstance(hint, str) else str(getattr(hint, "__name__", hint))


_LIMITS = {
    "gt": "> {}",
    "ge": ">= {}",
    "lt": "< {}",
    "le": "<= {}",
    "multiple_of": "a multiple of {}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
}


def _limits(metadata: Iterable[Any]) -> Iterator[str]:
    """Yield what annotated_types, or a pydantic ``Field``, say about a value."""
    for each in metadata:
        yield from _limits(getattr(each, "metadata", ()))
        for name, text in _LIMITS.items():
            limit = getattr(each, name, None)
            if limit is not None:
                yield text.format(limit)


def _field_docstrings(config: type[Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):
            continue  # made at run time; its options have no meanings to show
        (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for statement, after in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[statement.target.id] = inspect.cleandoc(after.value.value)
    return found
