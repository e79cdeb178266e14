"""The words of the project: the field's plain English in names, messages, help and documents."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BANNED = {
    r"judg(?:e|ed|es|ing|ement|ements)": "predict, score, inspect",
    r"promis(?:e|es|ed|ing)": "guarantee",
    r"mend(?:s|ed|ing)?": "fix",
    r"beside": "next to, compared with, in addition to",
    r"so many": "say how many",
    r"whoever": "name the person or part",
    r"who (?:has|have)": "name the person or part",
    r"rooms?": "space, memory, package",
    r"houses?": "package, code base",
    r"anew": "again",
    r"photos?": "image",
}
"""Words that are not in the project's vocabulary, and what to write instead."""
FORBIDDEN = re.compile(rf"\b(?:{'|'.join(BANNED)})\b", re.IGNORECASE)
FILE_KEY = re.compile(r"""(["`])photos\1""")
"""A key of model files and of older exported programs, which keeps its name."""
PARTICIPLES = {
    *("found", "kept", "judged", "seen", "made", "told", "done", "known", "given", "drawn", "taken", "held", "said"),
    *("shown", "written", "chosen", "built", "sent", "cut", "learnt", "learned", "begun", "gone", "left"),
}
NOUNS = frozenset({"seed", "speed", "embed", "need", "feed", "shed"})
"""Words that end like participles and are none."""
TEXTS = ("*.md", "docs/**/*.md", "docs/**/*.svg", "patchcore_plugin/**/*.j2", "patchcore_plugin/**/*.toml")
SOURCES = ("patchcore_plugin", "backbones", "examples", "benchmarks", "native")


def files(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern) if path.name != "CHANGELOG.md")


def python_files() -> list[Path]:
    return files(*(f"{source}/**/*.py" for source in SOURCES))


def words(path: Path) -> Iterator[str]:
    """Yield a line for each forbidden word of a file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        for match in FORBIDDEN.finditer(FILE_KEY.sub("", line)):
            yield f"{path.relative_to(ROOT)}:{number}: {match[0]!r} in {line.strip()[:90]}"


def is_bare_participle(name: str) -> bool:
    bare = name.strip("_").lower()
    return bare in PARTICIPLES or (bare.endswith("ed") and "_" not in bare and bare not in NOUNS and len(bare) > 3)


def names(path: Path) -> Iterator[str]:
    """Yield a line for each module, class or function whose name is a bare participle."""
    if is_bare_participle(path.stem):
        yield f"{path.relative_to(ROOT)}: module"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_property = isinstance(node, ast.FunctionDef) and any(
            isinstance(each, ast.Name) and each.id in ("property", "cached_property") for each in node.decorator_list
        )
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not is_property
            # A class named in CamelCase of several words is no bare participle.
            and not re.search(r"[a-z][A-Z]", node.name)
            and is_bare_participle(node.name)
        ):
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"


@pytest.mark.parametrize("path", [*python_files(), *files(*TEXTS)], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_forbidden_words(path: Path) -> None:
    assert list(words(path)) == []


def test_no_name_is_a_bare_participle() -> None:
    assert [line for path in python_files() for line in names(path)] == []


def test_a_forbidden_word_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "kept.py"
    path.write_text("def judged():\n    '''Judge a photo beside others.'''\n\n\nclass MergeReduceFit: ...\n")
    assert len(list(words(path))) == 4
    assert len(list(names(path))) == 2


if __name__ == "__main__":
    wanted = [Path(argument).resolve() for argument in sys.argv[1:]]
    for each in [*python_files(), *files(*TEXTS)]:
        if not wanted or any(each == one or one in each.parents for one in wanted):
            for line in (*words(each), *(names(each) if each.suffix == ".py" else ())):
                print(line)
