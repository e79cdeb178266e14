"""Commands that are run in this process, and what they leave on disk."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from patchcore_plugin.cli import main

SMALL = (
    *("--backbone", "efficientnet-lite0", "--device", "cpu"),
    *("--set", "preprocessing.size=64,64", "--set", "sampler.ratio=0.05"),
)
"""Options of a fit that takes no time."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def patchcore(*arguments: object) -> Ended:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["patchcore", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return Ended(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def done(*arguments: object) -> Ended:
    """Run a command that must succeed."""
    ended = patchcore(*arguments)
    assert ended.code == 0, ended
    return ended


def loaded(*arguments: object) -> Any:
    """Run a command that must succeed, and return the JSON document that it prints."""
    return json.loads(done(*arguments, "--json").out)


def failure(*arguments: object) -> str:
    """Run a command that must fail with one line and nothing else, and return the line.

    What a fit announces about the work before it fails does not count.
    """
    ended = patchcore(*arguments)
    assert ended.code == 1, ended
    assert ended.out == ""
    said = re.sub(r"\A\d+ images make .*\n", "", ended.err)
    assert said.startswith("patchcore: ")
    assert said.endswith("\n")
    assert said.count("\n") == 1
    return said.removeprefix("patchcore: ").removesuffix("\n")


def process(*arguments: object) -> list[str]:
    """Return the words that run a command in a process of its own."""
    return [sys.executable, "-c", "from patchcore_plugin.cli import main; main()", *map(str, arguments)]


def corrupt(path: Path) -> Path:
    """Write what looks like a PNG and is none."""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"not an image" * 9)
    return path


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file such as ``results.jsonl``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
