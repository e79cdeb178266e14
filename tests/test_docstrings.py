"""The docstrings of the package: what public functions and public names must state."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1] / "patchcore_plugin"
PROGRAMS = ("app", "cli")
"""Packages that are not an interface for other programs."""
ONE_LINE = {
    "plugins/builtin/*::*.restore": "implements `Scorer.restore`",
    "plugins/testing/*::run": "one of four implementations of the step that the modules of roles have in common",
    "plugins/testing/*::image": "likewise",
    "integrations/anomalib/module.py::*.validation_step": "overrides a method of Lightning",
    "integrations/anomalib/preparation.py::*.transform": "overrides a method of torchvision",
}
"""Functions without a section Parameters, as patterns of file and name, and why."""
ERRORS = {
    node.name
    for node in ast.parse((ROOT / "errors.py").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef)
}


class Function(NamedTuple):
    """A public function or method."""

    path: str
    name: str
    node: ast.FunctionDef
    doc: str

    @property
    def parameters(self) -> list[str]:
        arguments = self.node.args
        variadic = [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
        positional = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        return [each.arg for each in (*positional, *variadic) if each.arg not in ("self", "cls")]

    def matches(self, pattern: str) -> bool:
        path, name = pattern.split("::")
        return Path(self.path).match(path) and re.fullmatch(name.replace("*", r"\w+"), self.name) is not None

    @property
    def is_exempt(self) -> bool:
        return any(self.matches(pattern) for pattern in ONE_LINE)

    def entries(self, title: str) -> set[str]:
        """Return the names that a section explains."""
        section = re.search(rf"^{title}\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)", self.doc, re.MULTILINE | re.DOTALL)
        lines = section[1].split("\n") if section else []
        heads = [line.partition(":")[0] for line in lines if line and not line.startswith(" ")]
        return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if parts[0] not in PROGRAMS and not any(part.startswith("_") and part != "__init__.py" for part in parts):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def functions() -> Iterator[Function]:
    def visit(path: str, node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[Function]:
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
                name = f"{prefix}{child.name}"
                if isinstance(child, ast.ClassDef):
                    yield from visit(path, child, f"{name}.")
                elif not any(ast.unparse(each) == "overload" for each in child.decorator_list):
                    yield Function(path, name, child, ast.get_docstring(child) or "")

    for path, module in modules():
        yield from visit(path, module, "")


FUNCTIONS = list(functions())


def ids(problems: Iterator[Function]) -> list[str]:
    return [f"{function.path}:{function.node.lineno} {function.name}" for function in problems]


def catches_all(handler: ast.ExceptHandler) -> bool:
    return handler.type is not None and ast.unparse(handler.type) == "PatchcoreError"


def raises(function: Function) -> set[str]:
    """Return the PatchcoreErrors that the body of a function raises and does not catch."""

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if (
                isinstance(child, ast.Raise)
                and isinstance(child.exc, ast.Call)
                and isinstance(child.exc.func, ast.Name)
            ):
                yield child.exc.func.id
            if isinstance(child, ast.Try) and any(catches_all(handler) for handler in child.handlers):
                for part in (*child.handlers, *child.orelse, *child.finalbody):
                    yield from visit(part)
            elif not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.Lambda):
                yield from visit(child)

    return set(visit(function.node)) & ERRORS


def test_functions_with_several_parameters_explain_them() -> None:
    several = (each for each in FUNCTIONS if len(each.parameters) > 1 and not each.is_exempt)
    assert not ids(each for each in several if not each.entries("Parameters"))


def test_parameters_are_those_of_the_function() -> None:
    explained = (each for each in FUNCTIONS if each.entries("Parameters"))
    assert not ids(each for each in explained if each.entries("Parameters") != set(each.parameters))


def test_functions_state_what_they_return() -> None:
    """A summary that starts with Return or Yield is enough; so is the type of methods that return their object."""
    several = (each for each in FUNCTIONS if len(each.parameters) > 1 and not each.is_exempt)
    assert not ids(
        each
        for each in several
        if each.node.returns is not None
        and ast.unparse(each.node.returns) not in ("None", "Self", "object")
        and not re.match(r"(Return|Yield)\b", each.doc)
        and not each.entries("Returns") | each.entries("Yields")
    )


def test_functions_state_the_errors_that_they_raise() -> None:
    assert not ids(each for each in FUNCTIONS if raises(each) - each.entries("Raises"))


@pytest.mark.parametrize("pattern", ONE_LINE)
def test_exemptions_are_needed(pattern: str) -> None:
    assert any(each.matches(pattern) and not each.entries("Parameters") for each in FUNCTIONS)


def test_docstrings_do_not_refer_to_others_for_their_content() -> None:
    references = re.compile(r"\bAs (?:in|for) `|, as (?:in|for) `")
    assert not ids(each for each in FUNCTIONS if references.search(each.doc))


@cache
def examples() -> dict[str, str]:
    """Return the docstrings of functions and classes by name, and of modules for the constants that they define."""
    docs: dict[str, str] = {}
    for _, module in modules():
        for node in module.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                docs.setdefault(node.name, "")
                docs[node.name] += ast.get_docstring(node) or ""
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                docs.setdefault(node.targets[0].id, ast.get_docstring(module) or "")
    return docs


def public_names() -> list[str]:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assignments = (node for node in tree.body if isinstance(node, ast.Assign))
    lists = [node.value for node in assignments if ast.unparse(node.targets[0]) == "__all__"]
    return list(ast.literal_eval(lists[0]))


@pytest.mark.parametrize("name", public_names())
def test_public_names_have_an_example(name: str) -> None:
    assert re.search(rf"^(>>>|\.\.\.) .*\b{name}\b", examples()[name], re.MULTILINE | re.IGNORECASE)
