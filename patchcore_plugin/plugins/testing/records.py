"""Checks of a component's record and options, for every role. Without torch."""

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
from patchcore_plugin.plugins.manager import OWN_DISTRIBUTION, Host
from patchcore_plugin.plugins.options import describe

from .subject import Subject, told

HEAVY = (
    *("torch", "torchvision", "timm", "onnx", "onnxruntime", "faiss", "sklearn", "scipy", "cv2", "PIL", "pandas"),
    *("tensorflow", "jax", "transformers", "matplotlib"),
)
"""What listing plugins must not import."""


def name_is_free(it: Subject) -> None:
    """Choose a name that no built-in component of the role has."""
    others = Host(entry_points=False, strict=False).components(it.role)
    taken = any(other.spec.name == it.name and other.spec.config is not it.component.spec.config for other in others)
    it.expect(
        not taken,
        "a name of its own",
        "that of a built-in component",
        "choose another, or users must block one of the two",
    )


def summary_is_one_line(it: Subject) -> None:
    """Say what the component is in a summary of one line, for ``patchcore plugins list``."""
    summary = it.component.spec.summary
    it.expect(_is_one_line(summary), "a summary of one line", repr(summary), "say in a few words what it is")


def kernels_are_one_line(it: Subject) -> None:
    """Let `kernels`, if the record has it, say in one line what computes on a CPU and on a GPU."""
    kernels = it.component.spec.kernels
    for device in ("cpu", "cuda") if kernels else ():
        assert kernels is not None
        said = kernels(device)
        it.expect(_is_one_line(said), f"kernels({device!r}) to return one line", repr(said), "return a few words")


def _is_one_line(text: object) -> bool:
    return isinstance(text, str) and text.strip() == text != "" and text.isprintable()


def options_are_a_frozen_record(it: Subject) -> None:
    """Make the config a frozen, keyword-only dataclass."""
    config: Any = it.component.spec.config
    remedy = "decorate it with @dataclass(frozen=True, kw_only=True)"
    it.expect(config.__dataclass_params__.frozen, "a frozen config", f"{config.__name__}, which can be changed", remedy)
    positional = [each.name for each in dataclasses.fields(config) if each.init and not each.kw_only]
    it.expect(not positional, "a keyword-only config", f"positional {', '.join(positional)}", remedy)


def options_are_typed(it: Subject) -> None:
    """Give every option a type that can be resolved and that says something."""
    remedy = "annotate the field with a type that its module imports at run time, such as Annotated[int, Ge(1)]"
    try:
        hints = get_type_hints(it.component.spec.config)
    except Exception as error:
        raise it.failure("types that can be resolved", told(error), remedy) from error
    for each in dataclasses.fields(it.component.spec.config):
        hint = hints[each.name]
        it.expect(hint not in (Any, object), f"a type of option {each.name!r}", getattr(hint, "__name__", hint), remedy)
    for name in _unannotated(it.component.spec.config):
        remedy = f"write {name}: TYPE = VALUE, or annotate it as ClassVar if it is no option"
        raise it.failure(f"a type of option {name!r}", "none, so that it is no option", remedy)


def _unannotated(config: type[Any]) -> Iterator[str]:
    """Yield names of values in a dataclass's body that would be its fields if they had a type."""
    for cls in config.__mro__:
        if "__dataclass_fields__" in vars(cls):
            for name, value in vars(cls).items():
                plain = not (name.startswith("_") or callable(value) or hasattr(value, "__get__"))
                if plain and name not in inspect.get_annotations(cls):
                    yield name


def options_are_documented(it: Subject) -> None:
    """Write a docstring below every option, for ``patchcore plugins show``."""
    for each in describe(it.component.spec.config):
        remedy = "write its meaning as a string below the field"
        it.expect(bool(each.meaning), f"a docstring of option {each.name!r}", "none", remedy)


def defaults_are_valid(it: Subject) -> None:
    """Choose defaults that pass their own types and limits, unchanged."""
    config = _configured(it)
    stated = {**_defaults(it.component.spec.config), **it.options}
    remedy = "choose a default that users could write themselves"
    try:
        again = it.config(**stated)
    except OptionError as error:
        raise it.failure("defaults that its own options allow", f"this refusal: {error}", remedy) from error
    for each in dataclasses.fields(config):
        default, becomes = getattr(config, each.name), getattr(again, each.name)
        expected = f"a default of option {each.name!r} that validation leaves as it is"
        same = becomes == default and type(becomes) is type(default)
        it.expect(same, expected, f"{default!r}, which becomes {becomes!r}", remedy)


def _defaults(config: type[Any]) -> dict[str, Any]:
    found = {}
    for each in dataclasses.fields(config):
        if each.default is not dataclasses.MISSING:
            found[each.name] = each.default
        elif each.default_factory is not dataclasses.MISSING:
            found[each.name] = each.default_factory()
    return found


def options_survive_a_model_file(it: Subject) -> None:
    """Use options that come back equal from the JSON of a model file."""
    config = _configured(it)
    remedy = "use numbers, text, None, and tuples, lists or dicts of them"
    try:
        written = json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
        again = it.config(**written)
    except (TypeError, ValueError, OptionError) as error:
        raise it.failure("options that JSON can hold", told(error), remedy) from error
    it.expect(again == config, "equal options after writing and reading", f"{again} in place of {config}", remedy)


def limits_are_enforced(it: Subject) -> None:
    """Refuse values just beyond the limits that the options' types declare."""
    _configured(it)
    for option, kind, limit in limits(it.component.spec.config):
        beyond = {"ge": limit - 1, "gt": limit, "le": limit + 1, "lt": limit}[kind]
        try:
            it.config(**{option: beyond})
        except OptionError:
            continue
        raise it.failure(
            f"option {option!r} to refuse {beyond!r}, as its type declares {kind} {limit!r}",
            "that it is taken",
            "declare limits with annotated_types (Ge, Gt, Le, Lt) or pydantic's Field",
        )


def limits(config: type[Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield option, kind ("ge", "gt", "le", "lt") and value of each limit of the numeric options."""
    for option, hint in get_type_hints(config, include_extras=True).items():
        numeric = [declared for base, declared in _alternatives(hint) if base in (int, float)]
        if len(numeric) == 1:  # of two, one may allow what the other refuses
            yield from ((option, kind, limit) for kind, limit in numeric[0])


def _alternatives(hint: Any) -> Iterator[tuple[Any, list[tuple[str, Any]]]]:
    """Yield each type that an annotation allows, and its limits."""
    declared: list[tuple[str, Any]] = []
    if get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
        declared = [
            (kind, limit)
            for each in metadata
            for one in (each, *getattr(each, "metadata", ()))
            for kind in ("ge", "gt", "le", "lt")
            if (limit := getattr(one, kind, None)) is not None
        ]
    if get_origin(hint) in (Union, UnionType):
        for each in get_args(hint):
            for base, inner in _alternatives(each):
                yield base, declared + inner
    else:
        yield hint, declared


def listing_imports_nothing_heavy(it: Subject) -> None:
    """Import torch and the like inside `create` only, not with the plugin's module."""
    assert it.module is not None  # the check is left out otherwise
    heavy, problem = _imported_by(it.module, str(getattr(sys.modules.get(it.module), "__file__", "")))
    remedy = "import what is heavy inside create"
    it.expect(not problem, f"module {it.module} to be imported in a new process", problem, "mend what it says")
    it.expect(not heavy, f"listing {it.module} to import nothing heavy", ", ".join(heavy), remedy)


_CHILD = """
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
    """Return which heavy packages listing a module imports, or what went wrong; in a process of its own."""
    given = json.dumps([module, file, sys.path, HEAVY, OWN_DISTRIBUTION])
    environment = {name: value for name, value in os.environ.items() if name != "PATCHCORE_BLOCK_PLUGINS"}
    ended = subprocess.run(
        [sys.executable, "-c", _CHILD, given], capture_output=True, text=True, check=False, env=environment
    )
    if ended.returncode:
        return [], (ended.stderr.splitlines() or [f"exit code {ended.returncode}"])[-1]
    return json.loads(ended.stdout.splitlines()[-1]), ""


def _configured(it: Subject) -> Any:
    try:
        return it.config()
    except OptionError as error:
        raise it.unavailable(error) from error


CHECKS = (
    name_is_free,
    summary_is_one_line,
    kernels_are_one_line,
    options_are_a_frozen_record,
    options_are_typed,
    options_are_documented,
    listing_imports_nothing_heavy,
    defaults_are_valid,
    options_survive_a_model_file,
    limits_are_enforced,
)
