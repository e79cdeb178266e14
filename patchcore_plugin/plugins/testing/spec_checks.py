"""Checks of the record and the options of a component, for all roles. Without torch."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from patchcore_plugin.errors import OptionError
from patchcore_plugin.plugins.discovery import OWN_DISTRIBUTION, failure_reason
from patchcore_plugin.plugins.manager import Host
from patchcore_plugin.plugins.options import describe

from .check import Subject

HEAVY = (
    *("torch", "torchvision", "timm", "onnx", "onnxruntime", "faiss", "sklearn", "scipy", "cv2", "PIL", "pandas"),
    *("tensorflow", "jax", "transformers", "matplotlib"),
)
"""Packages that listing plugins must not import."""


def name_is_free(subject: Subject) -> None:
    """Have a name that no built-in component of the role has."""
    builtin = Host(entry_points=False, strict=False).components(subject.role)
    is_taken = any(
        other.spec.name == subject.name and other.spec.config is not subject.component.spec.config for other in builtin
    )
    subject.expect(
        not is_taken,
        "a unique name",
        "that of a built-in component",
        "choose another, or users must block one of the two",
    )


def summary_is_one_line(subject: Subject) -> None:
    """Have a summary of one line, for ``patchcore plugins list``."""
    summary = subject.component.spec.summary
    subject.expect(
        _is_one_line(summary), "a summary of one line", repr(summary), "describe the component in a few words"
    )


def kernels_are_one_line(subject: Subject) -> None:
    """Return one line from `kernels`, if the record has it, for a CPU and for a GPU."""
    kernels = subject.component.spec.kernels
    for device in ("cpu", "cuda") if kernels else ():
        assert kernels is not None
        text = kernels(device)
        subject.expect(_is_one_line(text), f"kernels({device!r}) to return one line", repr(text), "return a few words")


def _is_one_line(text: object) -> bool:
    return isinstance(text, str) and text.strip() == text != "" and text.isprintable()


def config_is_frozen(subject: Subject) -> None:
    """Have a frozen, keyword-only dataclass as config."""
    config: Any = subject.component.spec.config
    remedy = "decorate it with @dataclass(frozen=True, kw_only=True)"
    subject.expect(
        config.__dataclass_params__.frozen, "a frozen config", f"{config.__name__}, which is mutable", remedy
    )
    positional = [field.name for field in dataclasses.fields(config) if field.init and not field.kw_only]
    subject.expect(not positional, "a keyword-only config", f"positional {', '.join(positional)}", remedy)


def options_are_typed(subject: Subject) -> None:
    """Have a specific type for each option that can be resolved at run time."""
    remedy = "annotate the field with a type that the module imports at run time, such as Annotated[int, Ge(1)]"
    try:
        hints = get_type_hints(subject.component.spec.config)
    except Exception as error:
        raise subject.failure("types that can be resolved", failure_reason(error), remedy) from error
    for field in dataclasses.fields(subject.component.spec.config):
        hint = hints[field.name]
        subject.expect(
            hint not in (Any, object), f"a type of option {field.name!r}", getattr(hint, "__name__", hint), remedy
        )
    for name in _values_without_type(subject.component.spec.config):
        remedy = f"write {name}: TYPE = VALUE, or annotate it as ClassVar if it is not an option"
        raise subject.failure(f"a type of option {name!r}", "no annotation", remedy)


def _values_without_type(config: type[Any]) -> Iterator[str]:
    """Yield names of values in the body of a dataclass that are not fields because they have no annotation."""
    for cls in config.__mro__:
        if "__dataclass_fields__" in vars(cls):
            for name, value in vars(cls).items():
                plain = not (name.startswith("_") or callable(value) or hasattr(value, "__get__"))
                if plain and name not in inspect.get_annotations(cls):
                    yield name


def options_are_documented(subject: Subject) -> None:
    """Have a docstring below each option, for ``patchcore plugins show``."""
    for field in describe(subject.component.spec.config):
        remedy = "write a string with its meaning below the field"
        subject.expect(bool(field.meaning), f"a docstring of option {field.name!r}", "none", remedy)


def defaults_are_valid(subject: Subject) -> None:
    """Have defaults that pass validation unchanged."""
    config = _config(subject)
    stated = {**_defaults(subject.component.spec.config), **subject.options}
    remedy = "choose a default that is valid as user input"
    try:
        again = subject.config(**stated)
    except OptionError as error:
        raise subject.failure("valid defaults", error, remedy) from error
    for field in dataclasses.fields(config):
        default, becomes = getattr(config, field.name), getattr(again, field.name)
        expected = f"a default of option {field.name!r} that validation leaves unchanged"
        unchanged = becomes == default and type(becomes) is type(default)
        subject.expect(unchanged, expected, f"{default!r}, which becomes {becomes!r}", remedy)


def _defaults(config: type[Any]) -> dict[str, Any]:
    defaults = {}
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    return defaults


def options_fit_in_a_model_file(subject: Subject) -> None:
    """Have options that are equal after writing to and reading from the JSON of a model file."""
    config = _config(subject)
    remedy = "use numbers, text, None, and tuples, lists or dicts of them"
    try:
        written = json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
        again = subject.config(**written)
    except (TypeError, ValueError, OptionError) as error:
        raise subject.failure("options that JSON supports", failure_reason(error), remedy) from error
    subject.expect(again == config, "equal options after writing and reading", f"{again} instead of {config}", remedy)


def limits_are_enforced(subject: Subject) -> None:
    """Refuse values just beyond the limits in the types of the options."""
    _config(subject)
    for option, kind, limit in limits(subject.component.spec.config):
        beyond = {"ge": limit - 1, "gt": limit, "le": limit + 1, "lt": limit}[kind]
        try:
            subject.config(**{option: beyond})
        except OptionError:
            continue
        raise subject.failure(
            f"option {option!r} to refuse {beyond!r}, as its type declares {kind} {limit!r}",
            "that it is accepted",
            "declare limits with annotated_types (Ge, Gt, Le, Lt) or pydantic's Field",
        )


def limits(config: type[Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield option, kind ("ge", "gt", "le", "lt") and value of each limit of the numeric options."""
    for option, hint in get_type_hints(config, include_extras=True).items():
        numeric = [declared for base, declared in _alternatives(hint) if base in (int, float)]
        if len(numeric) == 1:  # of two, one may allow a value that the other refuses
            yield from ((option, kind, limit) for kind, limit in numeric[0])


def _alternatives(hint: Any) -> Iterator[tuple[Any, list[tuple[str, Any]]]]:
    """Yield the types of an annotation with their limits."""
    declared: list[tuple[str, Any]] = []
    if get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
        declared = [
            (kind, limit)
            for annotation in metadata
            for constraint in (annotation, *getattr(annotation, "metadata", ()))
            for kind in ("ge", "gt", "le", "lt")
            if (limit := getattr(constraint, kind, None)) is not None
        ]
    if get_origin(hint) in (Union, UnionType):
        for argument in get_args(hint):
            for base, inner in _alternatives(argument):
                yield base, declared + inner
    else:
        yield hint, declared


def listing_imports_nothing_heavy(subject: Subject) -> None:
    """Import heavy packages such as torch inside `create` only, not with the module of the plugin."""
    assert subject.module is not None  # otherwise the check is left out
    heavy, problem = _imported_by(subject.module, str(getattr(sys.modules.get(subject.module), "__file__", "")))
    remedy = "import heavy packages inside create"
    subject.expect(not problem, f"module {subject.module} to be imported in a new process", problem, "fix the import")
    subject.expect(not heavy, f"listing {subject.module} to import nothing heavy", ", ".join(heavy), remedy)


_SCRIPT = """
import importlib, importlib.util, json, sys
name, file, sys.path[:], heavy, own = json.loads(sys.argv[1])
from patchcore_plugin import Host
try:
    plugin = importlib.import_module(name)
except ModuleNotFoundError as error:
    if not file or not f"{name}.".startswith(f"{error.name}."):
        raise
    spec = importlib.util.spec_from_file_location(name, file)
    plugin = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
host = Host(entry_points=False, block=[own], extra={"it": plugin}, strict=True)
for component in host.components():
    if component.spec.kernels is not None:
        component.spec.kernels("cpu")
print("\\n" + json.dumps(sorted({each.partition(".")[0] for each in sys.modules} & set(heavy))))
"""


@functools.lru_cache
def _imported_by(module: str, file: str) -> tuple[list[str], str]:
    """Return the heavy packages that listing a module imports, or the error, from a new process."""
    arguments = json.dumps([module, file, sys.path, HEAVY, OWN_DISTRIBUTION])
    environment = {name: value for name, value in os.environ.items() if name != "PATCHCORE_BLOCK_PLUGINS"}
    process = subprocess.run(
        [sys.executable, "-c", _SCRIPT, arguments], capture_output=True, text=True, check=False, env=environment
    )
    if process.returncode:
        return [], (process.stderr.splitlines() or [f"exit code {process.returncode}"])[-1]
    return json.loads(process.stdout.splitlines()[-1]), ""


def _config(subject: Subject) -> Any:
    try:
        return subject.config()
    except OptionError as error:
        raise subject.unavailable(error) from error


CHECKS = (
    name_is_free,
    summary_is_one_line,
    kernels_are_one_line,
    config_is_frozen,
    options_are_typed,
    options_are_documented,
    listing_imports_nothing_heavy,
    defaults_are_valid,
    options_fit_in_a_model_file,
    limits_are_enforced,
)
