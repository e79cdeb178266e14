"""The layout of the package: what lies at its root, and how long its files are."""

from __future__ import annotations

from pathlib import Path

import patchcore_plugin as pp

ROOT = Path(pp.__file__).parent
PACKAGES = {"app", "cli", "data", "evaluation", "inference", "integrations", "kernels", "models", "plugins"}
LONGEST = 300
LONGER = {
    "models/detector.py": "the public class: two thirds are its docstrings",
    "plugins/protocols.py": "the documentation of the contracts: two thirds are docstrings",
}
"""Files that may be longer, and why."""


def test_the_root_has_nine_packages_and_three_modules() -> None:
    entries = {entry.name for entry in ROOT.iterdir() if entry.name != "__pycache__"}
    assert entries == PACKAGES | {"__init__.py", "__main__.py", "errors.py", "py.typed"}


def test_files_are_short() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in ROOT.rglob("*.py")
    }
    assert {path for path, lines in lengths.items() if lines > LONGEST} <= set(LONGER)
    assert set(LONGER) <= set(lengths)
