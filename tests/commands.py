"""Helpers to run commands in this process and to read their files."""

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
"""Options of a fast fit."""


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


def patchcore(*arguments: object) -> CommandResult:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["patchcore", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return CommandResult(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def run_command(*arguments: object) -> CommandResult:
    """Run a command that must succeed."""
    ended = patchcore(*arguments)
    assert ended.code == 0, ended
    return ended


def run_json(*arguments: object) -> Any:
    """Run a command that must succeed, and return the JSON document that it prints."""
    return json.loads(run_command(*arguments, "--json").out)


def run_failing(*arguments: object) -> str:
    """Run a command that must fail with one line and no other output, and return that line without the prefix.

    The memory plan that a fit prints before it fails is ignored.
    """
    ended = patchcore(*arguments)
    assert ended.code == 1, ended
    assert ended.out == ""
    message = re.sub(r"^(member .*: )?\d+ images .* GB .*\n", "", ended.err, flags=re.MULTILINE)
    assert message.startswith("patchcore: ")
    assert message.endswith("\n")
    assert message.count("\n") == 1
    return message.removeprefix("patchcore: ").removesuffix("\n")


def process(*arguments: object) -> list[str]:
    """Return the arguments that run a command in a new process."""
    return [sys.executable, "-c", "from patchcore_plugin.cli import main; main()", *map(str, arguments)]


def corrupt(path: Path) -> Path:
    """Write a file that starts like a PNG and cannot be decoded."""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"not an image" * 9)
    return path


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file such as ``results.jsonl``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
