"""Options of components and recipes: validation against a dataclass, and descriptions of its fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from patchcore_plugin.errors import OptionError, did_you_mean


def validate(config: type[Any], options: Mapping[str, Any], owner: str) -> Any:
    """Return an instance of a dataclass with validated field values.

    Parameters
    ----------
    config
        A dataclass with annotated fields. A class variable ``renamed_options`` maps older names of fields, which model
        files may contain, to the present ones.
    options
        Field values from Python, TOML or the command line.
    owner
        The component or table that the options belong to, for messages: ``sampler 'greedy-coreset'``.

    Raises
    ------
    OptionError
        If a field does not exist, is missing, or its value is invalid.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Config:
    ...     step: int = 10
    >>> validate(Config, {"step": "3"}, "sampler 'every'").step
    3
    """
    # Listing plugins does not need pydantic, whose import takes as long as that of the rest of the host.
    from pydantic import TypeAdapter, ValidationError

    names = [field.name for field in dataclasses.fields(config)]
    renamed: Mapping[str, str] = getattr(config, "renamed_options", {})
    options = {renamed.get(name, name): value for name, value in options.items()}
    for name in options:
        if name not in names:
            hint = did_you_mean(name, names)
            raise OptionError(f"{owner}: unknown option {name!r}; {hint}its options are: {', '.join(names) or 'none'}")
    try:
        return TypeAdapter(config).validate_python(dict(options))
    except ValidationError as error:
        raise OptionError(f"{owner}: {_first_problem(error.errors(include_url=False))}") from None


def _first_problem(problems: list[Any]) -> str:
    """Return what is wrong with the first invalid option; a union has one problem for each of its types."""
    first = problems[0]
    if not first["loc"]:
        return str(first["msg"]).removeprefix("Value error, ")
    field = first["loc"][0]
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"option {field!r} is required"
    texts = [_requirement(problem) for problem in problems if problem["loc"] and problem["loc"][0] == field]
    return f"option {field!r} must {' or '.join(dict.fromkeys(texts))}, got {first['input']!r}".replace(
        " or be ", " or "
    )


def _requirement(problem: Mapping[str, Any]) -> str:
    """Return a problem that pydantic found as text that continues "must"."""
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
        text = text.partition(", ")[0]  # the rest says why; the message shows the value instead
    return f"be {text}"


@dataclass(frozen=True, kw_only=True)
class Option:
    """Description of one option: name, type, default and meaning, as text."""

    name: str
    type: str
    default: str
    meaning: str


def describe(config: type[Any]) -> list[Option]:
    """Return descriptions of the fields of a dataclass.

    Parameters
    ----------
    config
        A dataclass. The string below each field is its meaning.

    Returns
    -------
    list of Option
        In the order of the fields.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> options = describe(pp.Host(entry_points=False).component("scorer", "knn").spec.config)
    >>> options[0].name, options[0].type, options[0].default
    ('neighbours', 'int, >= 2', '9')
    """
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
        return {}  # a name imported for type checkers only: show annotations as written


def _kind(hint: Any) -> str:
    """Return a type as readable text: ``Annotated[float, Gt(0), Le(1)]`` is "float, > 0, <= 1"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ", ".join([_kind(arguments[0]), *_limits(arguments[1:])])
    if origin in (Union, UnionType):
        limited = any(get_origin(argument) is Annotated for argument in arguments)
        return (", or " if limited else " or ").join(_kind(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(repr(value) for value in arguments)
    if origin is not None and arguments:
        inner = ["..." if argument is Ellipsis else _kind(argument).replace(", ", " ") for argument in arguments]
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
    """Yield the limits in annotations from annotated_types or a pydantic ``Field``."""
    for annotation in metadata:
        yield from _limits(getattr(annotation, "metadata", ()))
        for name, text in _LIMITS.items():
            limit = getattr(annotation, name, None)
            if limit is not None:
                yield text.format(limit)


def _field_docstrings(config: type[Any]) -> dict[str, str]:
    docstrings: dict[str, str] = {}
    for cls in reversed(config.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):
            continue  # a class created at run time has no source
        (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for statement, after in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docstrings[statement.target.id] = inspect.cleandoc(after.value.value)
    return docstrings
